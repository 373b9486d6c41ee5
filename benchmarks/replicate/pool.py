"""Jobs side by side, one thread each, with a bar that knows how much each of them costs."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from .jobs import Job
from .runs import read_result, run_job

JUDGING = 6_000.0
"""What judging a run costs, about, in forwards of one sample."""


def run_all(jobs: Sequence[Job], out: Path, workers: int, console: Console) -> list[str]:
    """Do the jobs that have no result yet; returns a sentence for each that failed.

    Raises:
        KeyboardInterrupt: a signal came. Runs in progress are saved, and the same call goes on.
    """
    different = {job.key: job for job in jobs}.values()
    waiting = [job for job in different if read_result(job, out) is None]
    known = len(different) - len(waiting)
    console.print(f"{len(waiting)} runs to do, {known} done before, {workers} at a time; folder: {out}")
    if not waiting:
        return []
    os.environ["OMP_NUM_THREADS"] = "1"  # two teams of threads on one core would spin against each other
    pool = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_ignore_sigterm
    )
    failed: list[str] = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[runs]}"),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with pool, Progress(*columns, console=console, speed_estimate_period=3600.0) as progress:
        bar = progress.add_task("replication", total=sum(map(_cost, waiting)), runs=f"0/{len(waiting)}")
        futures = {pool.submit(_work, job, out): job for job in waiting}
        try:
            left = set(futures)
            while left:
                done, left = wait(left, return_when=FIRST_COMPLETED)
                for future in done:
                    failed += _failure(future, futures[future])
                    count = len(waiting) - len(left)
                    progress.update(bar, advance=_cost(futures[future]), runs=f"{count}/{len(waiting)}")
        except BaseException:
            for process in multiprocessing.active_children():
                process.terminate()  # lets a training save its update
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return failed


def _failure(future: Future[Path], job: Job) -> list[str]:
    error = future.exception()
    if error is None:
        return []
    if not isinstance(error, Exception):
        raise error
    about = job.options.get("method", "given")
    return [f"{job.setting}, {about}, seed {job.seed} ({job.key}): {type(error).__name__}: {error}"]


def _cost(job: Job) -> float:
    return job.expected_compute() + JUDGING


def _work(job: Job, out: Path) -> Path:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return run_job(job, out)
    finally:
        _ignore_sigterm()


def _ignore_sigterm() -> None:
    """Where a worker without work dies of the signal that stops another, the pool kills that one too."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
