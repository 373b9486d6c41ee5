"""Compositions of guidance: the scale that a student has absorbed, and the scale that it is sampled with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from .arms import absorbed_by
from .records import Run

SUITE: Final = "cfg"


def compositions(runs: Sequence[Run], setting: str) -> dict[tuple[float, float], list[Run]]:
    """(alpha, beta) -> the runs of that composition, one per seed, as if each had been sampled so only."""
    found: dict[tuple[float, float], list[Run]] = {}
    for run in runs:
        alpha = absorbed_by(run.arm)
        if (run.suite, run.setting) != (SUITE, setting) or alpha is None:
            continue
        found.setdefault((alpha, 1.0), []).append(run)
        for scale, told in run.scales.items():
            sampled = replace(run, tasks=told["tasks"], diversity=told["diversity"], gap=told["gap"])
            found.setdefault((alpha, float(scale)), []).append(sampled)
    return dict(sorted(found.items()))


def with_compositions(runs: Sequence[Run]) -> list[Run]:
    """With an arm of its own for every scale that a student was sampled with."""
    sampled = [
        replace(
            run, arm=f"{run.arm}, beta = {float(scale):g}", tasks=told["tasks"], diversity=told["diversity"]
        )
        for run in runs
        for scale, told in run.scales.items()
    ]
    return [*runs, *sampled]
