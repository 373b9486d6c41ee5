"""From the results of runs to the rows of tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .records import Run
from .runs import read_result
from .suites import Entry


def collect(entries: Sequence[Entry], out: Path) -> list[Run]:
    """The rows whose runs are done, in the order of the entries."""
    runs = []
    for entry in entries:
        result = read_result(entry.job, out)
        if result is not None:
            runs.append(_run(entry, result))
    return runs


def _run(entry: Entry, result: Mapping[str, Any]) -> Run:
    method = entry.job.options.get("method", "")
    config = result["config"]
    return Run(
        suite=entry.suite,
        setting=entry.job.setting,
        arm=entry.arm,
        budget=entry.budget,
        seed=entry.job.seed,
        method=method if isinstance(method, str) else method["name"],
        updates=entry.job.updates,
        learning_rate=config.get("learning_rate", 0.0),
        config=config,
        compute=result["compute"],
        seconds=result["seconds"],
        diverged=result["diverged"],
        tasks=result["tasks"],
        diversity=result["diversity"],
        gap=result["gap"],
        scales=result["scales"],
        curve=result["curve"],
        made_by=result.get("made_by", {}),
    )
