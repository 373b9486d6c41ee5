"""The paper's tables and ablations once more, in ShapesWorld, whose experts ship with the package.

    python benchmarks/replication.py                             # the main table, three seeds, within an hour
    python benchmarks/replication.py --suite all --seeds 3        # everything, a night
    python benchmarks/replication.py --suite main --seeds 1 --quick     # within minutes: does it run?

All methods get the same data, student, batch and number of updates, and then, in rows of their own, as many
updates as DanceOPD's compute allows; each has the learning rate that suits it best of a small grid (suite
`tune`). Every student is scored on the same tasks from the same noise. Runs are kept by what they do, so a
stopped command goes on, and suites share what they have in common.

OUT gets runs/ (one result per run), runs.jsonl.gz (all of them), tables/, figures/ and report.html,
which tell of all that is in OUT, asked for or not: an earlier command may have run more suites or seeds.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from replicate.collect import collect
from replicate.drawing import check_matplotlib
from replicate.made_by import of_other_code
from replicate.pool import run_all
from replicate.records import write_runs
from replicate.runs import BrokenResultError, result_path
from replicate.suites import QUICK, SUITES, Entry, Size, entries
from replicate.write import write_report
from rich.console import Console

from danceopd.signals import Interrupted, stopping_at_once

OUT = Path("runs/replication")
QUICK_OUT = Path("runs/replication-quick")


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
    parser.add_argument(
        "--seeds",
        type=_positive,
        default=3,
        help="seeds 0 .. N - 1 (default: 3); those beyond that are there stay in the report",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a tenth of the training, an eighth of the tasks, in a folder of its own",
    )
    parser.add_argument(
        "--workers", type=_positive, default=os.cpu_count() or 1, help="processes (default: one per core)"
    )
    parser.add_argument("--out", type=Path, help=f"folder (default: {OUT}, with --quick {QUICK_OUT})")
    asked = parser.parse_args(arguments)
    out, size = asked.out or (QUICK_OUT if asked.quick else OUT), QUICK if asked.quick else Size()
    # Before hours of training.
    check_matplotlib()
    if told := _why_not(out, Size() if asked.quick else QUICK):
        print(told, file=sys.stderr)
        return 2
    suites = list(SUITES) if "all" in asked.suite else list(dict.fromkeys(asked.suite))
    rows = [entry for suite in suites for entry in entries(suite, range(asked.seeds), size)]
    try:
        return _run(rows, asked.seeds, size, out, asked.workers)
    except BrokenResultError as error:
        print(error, file=sys.stderr)
        return 1


def _run(rows: Sequence[Entry], seeds: int, size: Size, out: Path, workers: int) -> int:
    """The exit code, 0 where nothing failed."""
    console = Console()
    # Seeds outermost: a command that is stopped early leaves whole tables of fewer seeds.
    ordered = sorted((entry.job for entry in rows), key=lambda job: job.seed)
    try:
        with stopping_at_once("stopped; what was trained is kept, and the same command goes on"):
            failed = run_all(ordered, out, workers, console)
    except Interrupted as stop:
        console.print(str(stop))
        return 128 + stop.number
    for sentence in failed:
        console.print(f"failed: {sentence}", style="red")
    runs = collect(_there(seeds, size, out), out)
    if not runs:
        older = "; its report.html is of other runs" if (out / "report.html").exists() else ""
        print(f"there is nothing to report: no run is done in '{out}'{older}.", file=sys.stderr)
        return 1
    write_runs(runs, out / "runs.jsonl.gz")
    write_report(runs, out)
    console.print(f"report: {out / 'report.html'}, tables: {out / 'tables'}")
    if told := of_other_code(runs):
        print(told, file=sys.stderr)
    return 1 if failed else 0


def _there(seeds: int, size: Size, out: Path) -> list[Entry]:
    """Rows of all suites: of the seeds that were asked for, and of those beyond that `out` has runs of."""
    while any(_is_done(entry, out) for entry in _every(seeds, size) if entry.job.seed == seeds):
        seeds += 1
    return [entry for suite in SUITES for entry in entries(suite, range(seeds), size)]


def _every(seed: int, size: Size) -> list[Entry]:
    """Rows of all suites, of one seed."""
    return [entry for suite in SUITES for entry in entries(suite, [seed], size)]


def _is_done(entry: Entry, out: Path) -> bool:
    return result_path(entry.job, out).exists()


def _why_not(out: Path, other: Size) -> str | None:
    """What keeps runs from `out`, which another size has perhaps; None where it is a folder for them."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        # The one question that permissions, full disks and read-only mounts all answer.
        with tempfile.TemporaryFile(dir=out) as file:
            file.write(b"\0")
    except OSError as error:
        return f"--out '{out}' cannot be written to ({error.strerror}): name a folder that can."
    if any(_is_done(entry, out) for entry in _every(0, other)):
        return f"--out '{out}' holds runs of the other size, with --quick or without: name another folder."
    return None


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number of at least 1: give one, such as 3.")
    return int(text)


if __name__ == "__main__":
    raise SystemExit(main())
