"""Names of what is compared, as the suites give them: their order, their labels, and the runs behind them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from .records import Run

MAIN: Final = "main"
REFERENCE: Final = "danceopd"
"""The method with its defaults, in the main suite."""
REFERENCES: Final = {
    MAIN: REFERENCE,
    "routing": "hard, per sample",
    "query": "low",
    "beyond": "low",
    "k": "K = 1",
    "steps": "8 steps",
    "loss": "mse",
    "init": "an expert",
    "cfg": "base",
    "longer": REFERENCE,
}
"""What the other arms of a suite are compared with: the same runs in all but the last two."""
VALIDATED: Final = ("tune",)
"""Suites judged on validation tasks, whose scores stand beside none on test tasks."""
BASELINES: Final = ("joint training", "weight merge", "offpolicy", "diffusionopd", "flowopd")
GROUNDS: Final = {"t2i-edit": ("t2i", "edit"), "local-global": ("local", "global")}
"""What the settings of the paper distil."""

_ORDER: Final = (
    *("source: base", "source: edit", "source: local", "source: global"),
    *BASELINES,
    REFERENCE,
    *(arm for suite, arm in REFERENCES.items() if arm != REFERENCE),
    *("middle", "high", "uniform"),
)
_LABELS: Final = {
    REFERENCE: "DanceOPD",
    "diffusionopd": "DiffusionOPD",
    "flowopd": "Flow-OPD",
    "offpolicy": "off-policy",
}
_NUMBER: Final = re.compile(r"(\d+(?:\.\d+)?(?:e-?\d+)?)")
_ABSORBED: Final = re.compile(r"alpha = ([\d.]+)")


def label_of(arm: str, suite: str = MAIN) -> str:
    """An arm as tables of a suite call it."""
    is_usual = arm == REFERENCES.get(suite) and suite not in (MAIN, "longer", "cfg")
    if is_usual:
        return f"{arm} (DanceOPD)"
    method, comma, rest = arm.partition(", ")  # such as a learning rate
    return f"{_LABELS.get(method, method)}{comma}{rest}"


def place_of(arm: str) -> tuple[int, tuple[tuple[int, float, str], ...]]:
    """The order of rows: sources, baselines, references, then others by name and number."""
    parts = tuple(
        (0, float(part), "") if _NUMBER.fullmatch(part) else (1, 0.0, part)
        for part in _NUMBER.split(arm)
        if part
    )
    return (_ORDER.index(arm) if arm in _ORDER else len(_ORDER)), parts


def expert_of(ground: str) -> str:
    """The arm of the expert that teaches a ground, in the main suite."""
    return "source: base" if ground == "t2i" else f"source: {ground}"


def absorbed_by(arm: str) -> float | None:
    """The guidance scale of an arm's teachers in the suite of guidance, None for what is no such arm."""
    if arm == REFERENCES["cfg"]:
        return 1.0
    found = _ABSORBED.fullmatch(arm)
    return float(found[1]) if found else None


def settings_of(runs: Sequence[Run]) -> list[str]:
    """The settings that there are runs of, those of the paper first."""
    found = {run.setting for run in runs}
    return [*(name for name in GROUNDS if name in found), *sorted(found - set(GROUNDS))]


def arms_of(runs: Sequence[Run], suite: str, setting: str) -> list[str]:
    """The arms of a suite in the order of tables."""
    return sorted({r.arm for r in runs if (r.suite, r.setting) == (suite, setting)}, key=place_of)


def runs_of(runs: Sequence[Run], suite: str, setting: str, arm: str, budget: str) -> list[Run]:
    """The runs that stand for an arm at a budget, by seed; a model without training does at both."""
    own = [run for run in runs if (run.suite, run.setting, run.arm) == (suite, setting, arm)]
    for name in (budget, "none"):
        if found := [run for run in own if run.budget == name]:
            return sorted(found, key=lambda run: run.seed)
    return []
