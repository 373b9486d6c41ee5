"""``danceopd train``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from danceopd.cli.opening import open_run
from danceopd.cli.options import Config, Overrides
from danceopd.signals import stopping_at_once

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
    result = trainer.train(resume=resume_from or resume)
    if result.stopped_by is not None:
        again = shlex.join(
            ["danceopd", "train", str(config), *(overrides or []), *([] if check else ["--no-check"])]
            # No update since then: the settings that were changed with it are in no checkpoint yet.
            + (["--resume-from", str(resume_from)] if _names(resume_from, result.step) else [])
        )
        if trainer.ranks.size > 1:
            again = f"the command that started its {trainer.ranks.size} processes"
        if trainer.ranks.is_first:
            typer.echo(f"Stopped after {result.step} of {run.max_steps} updates; to go on: {again}", err=True)
        raise typer.Exit(128 + result.stopped_by)
    if trainer.ranks.is_first:
        typer.echo(f"{result.step} updates done; the student is in {result.exported}", err=True)


def _prepare(config: Path, overrides: list[str] | None, *, check: bool) -> tuple[RunConfig, DanceOPDTrainer]:
    """The run as it was asked for, and what trains it; checked if so asked."""
    from danceopd.training import DanceOPDTrainer, check_run

    run, family = open_run(config, overrides)
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
