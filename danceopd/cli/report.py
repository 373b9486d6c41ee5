"""``danceopd report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, of a run that goes on too.")],
) -> None:
    """Write report.html of a run anew: curves, histograms, samples, settings, in one file without a network.

    Scores that [bold]danceopd eval RUN --out RUN/scores.json[/bold] has written become its scoreboard;
    scores-NAME.json beside it are further columns.
    """
    from danceopd.training import write_run_report

    typer.echo(write_run_report(run))
