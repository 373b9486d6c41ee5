"""``danceopd check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from danceopd.cli.opening import open_run
from danceopd.cli.options import Config, Overrides
from danceopd.cli.steps import tell_nothing, tell_step
from danceopd.signals import stopping_at_once


def check(
    config: Config,
    overrides: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the picture of samples; 'check' in output_dir when not given."),
    ] = None,
    samples: Annotated[
        bool, typer.Option("--samples/--no-samples", help="Draw a sample per teacher and route.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Try everything that a run needs, before a day is spent on it, and tell what it will cost.

    Config, all rows, disk and memory, teachers, conventions, memory and time, and one sample per teacher and
    route. What fails ends the check in one sentence and exit code 2, and nothing is written.
    """
    from danceopd.training import check_run

    if out is not None and not samples:
        raise ValueError(f"--out {out} is for the samples, but --no-samples draws none: drop one of them.")
    with stopping_at_once("the check was stopped; at most it has added rows to the run's cache."):
        run, family = open_run(config, overrides)
        folder = (out or Path(run.output_dir) / "check") if samples else None
        tell = tell_nothing if as_json else tell_step
        report = check_run(run, family=family, samples=folder, tell=tell).report
    if as_json:
        typer.echo(report.to_json())
    for warning in report.warnings:
        typer.echo(f"danceopd: {warning}", err=True)
