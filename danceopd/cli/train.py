"""``danceopd train``."""

from __future__ import annotations

import shlex
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from danceopd.cli.opening import open_run
from danceopd.cli.options import Config, Overrides
from danceopd.signals import Interrupted, stopping_at_once

if TYPE_CHECKING:
    from danceopd.training import DanceOPDTrainer, RunConfig


def train(
    config: Config,
    overrides: Overrides = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume/--no-resume", help="Continue the run that output_dir holds, or insist on a new one."
        ),
    ] = True,
    resume_from: Annotated[
        Path | None, typer.Option(help="Checkpoint folder to continue from, instead of output_dir's newest.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Check the run first, as danceopd check does.")
    ] = True,
) -> None:
    """Train a student as CONFIG says; the same command continues a run that was stopped.

    Ctrl-C (or SIGTERM) finishes the update at hand, saves a checkpoint and ends. On several GPUs:
    torchrun --nproc-per-node 8 -m danceopd train CONFIG; batch_size counts for each of them.
    """
    if resume_from is not None and not resume:
        raise ValueError(
            f"--no-resume insists on a new run, but --resume-from {resume_from} continues one: "
            "drop one of them."
        )
    with stopping_at_once("stopped before training began; nothing was trained or written."):
        run, trainer = _prepare(config, overrides, check=check)
    before = _newest(run)

    def to_go_on(step: int) -> str:
        again = shlex.join(
            ["danceopd", "train", str(config), *(overrides or []), *([] if check else ["--no-check"])]
            # No update since then: the settings that were changed with it are in no checkpoint yet.
            + (["--resume-from", str(resume_from)] if _names(resume_from, step) else [])
        )
        if trainer.ranks.size > 1:
            again = f"the command that started its {trainer.ranks.size} processes"
        return f"{step} of {run.max_steps} updates; to go on: {again}"

    try:
        with nullcontext() if run.progress else _hidden_bars():
            result = trainer.train(resume=resume_from or resume)
    except Interrupted:
        raise  # it says itself what is there
    except KeyboardInterrupt:
        if trainer.ranks.is_first and (saved := _newest(run)):
            step = int(saved[0].name.partition("-")[2])
            typer.echo(f"Stopped at once, with a checkpoint after {to_go_on(step)}", err=True)
        raise
    if result.stopped_by is not None:
        if trainer.ranks.is_first:
            typer.echo(f"Stopped after {to_go_on(result.step)}", err=True)
        raise typer.Exit(128 + result.stopped_by)
    if trainer.ranks.is_first:
        done = "updates done"
        if _newest(run) == before:  # training ends with a new one
            done = "updates were done already"
            if run.lr_schedule == "constant":
                done += " (raise max_steps to go on)"
        typer.echo(f"{result.step} {done}; the student is in {result.exported}", err=True)


def _prepare(config: Path, overrides: list[str] | None, *, check: bool) -> tuple[RunConfig, DanceOPDTrainer]:
    """The run as it was asked for, and what trains it; checked if so asked."""
    from danceopd.training import DanceOPDTrainer, check_run

    run, family = open_run(config, overrides)
    with nullcontext() if run.progress else _hidden_bars():
        if not check:
            return run, DanceOPDTrainer(family=family, teachers=run.teachers, routes=run.routes, config=run)
        # Where it would continue is for the training itself to find out, under its lock.
        report, trainer = check_run(run, family=family, resume=None)
    if trainer.ranks.is_first:
        for warning in report.warnings:
            typer.echo(f"danceopd: {warning}", err=True)
        if run.progress:
            typer.echo(", ".join(report.estimate.lines()), err=True)
    return run, trainer


def _names(checkpoint: Path | None, step: int) -> bool:
    return checkpoint is not None and checkpoint.name == f"step-{step:08d}"


def _newest(run: RunConfig) -> tuple[Path, int] | None:
    """The newest checkpoint of a run, and when it came to its place."""
    from danceopd.training import list_checkpoints
    from danceopd.training.run_folder import CHECKPOINTS

    found = list_checkpoints(Path(run.output_dir) / CHECKPOINTS)
    return (found[-1], found[-1].stat().st_mtime_ns) if found else None


def _hidden_bars() -> AbstractContextManager[None]:
    from danceopd.families.bars import hidden_bars

    return hidden_bars()
