"""The paper's tables and ablations once more, in ShapesWorld, whose experts ship with the package.

    python benchmarks/replication.py                             # the main table, three seeds, within an hour
    python benchmarks/replication.py --suite all --seeds 3        # everything, a night
    python benchmarks/replication.py --suite main --seeds 1 --quick     # within minutes: does it run?

All methods get the same data, student, batch and number of updates, and then, in rows of their own, as many
updates as DanceOPD's compute allows; each has the learning rate that suits it best of a small grid (suite
`tune`). Every student is scored on the same tasks from the same noise. Runs are kept by what they do, so a
stopped command goes on, and suites share what they have in common.

OUT gets runs/ (one result per run), runs.jsonl.gz (all of them), tables/, figures/ and report.html.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from replicate.collect import collect
from replicate.drawing import check_matplotlib
from replicate.pool import run_all
from replicate.records import write_runs
from replicate.suites import QUICK, SUITES, Size, entries
from replicate.write import write_report
from rich.console import Console


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing, and report on all that is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--suite",
        nargs="+",
        default=["main"],
        choices=[*SUITES, "all"],
        metavar="SUITE",
        help=f"{', '.join(SUITES)} or all (default: main)",
    )
    parser.add_argument("--seeds", type=_positive, default=3, help="seeds 0 .. N - 1 (default: 3)")
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the training, an eighth of the tasks"
    )
    parser.add_argument(
        "--workers", type=_positive, default=os.cpu_count() or 1, help="processes (default: one per core)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/replication"), help="folder (default: runs/replication)"
    )
    asked = parser.parse_args(arguments)
    check_matplotlib()  # before hours of training
    console = Console()
    suites = list(SUITES) if "all" in asked.suite else list(dict.fromkeys(asked.suite))
    size = QUICK if asked.quick else Size()
    rows = [entry for suite in suites for entry in entries(suite, range(asked.seeds), size)]
    # Seeds outermost: a command that is stopped early leaves whole tables of fewer seeds.
    ordered = sorted((entry.job for entry in rows), key=lambda job: job.seed)
    try:
        failed = run_all(ordered, asked.out, asked.workers, console)
    except KeyboardInterrupt:
        console.print("stopped; what was trained is kept, and the same command goes on")
        return 130
    # Of other suites too, where an earlier command has run them.
    every = [entry for suite in SUITES for entry in entries(suite, range(asked.seeds), size)]
    runs = collect(every, asked.out)
    write_runs(runs, asked.out / "runs.jsonl.gz")
    if runs:
        write_report(runs, asked.out)
        console.print(f"report: {asked.out / 'report.html'}, tables: {asked.out / 'tables'}")
    for sentence in failed:
        console.print(f"failed: {sentence}", style="red")
    return 1 if failed else 0


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, but got {number}")
    return number


if __name__ == "__main__":
    raise SystemExit(main())
