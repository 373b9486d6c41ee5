"""The numbers that the replication is read against: as ranks, since neither model nor scorer is the paper's.

DanceOPD, arXiv 2606.27377, Z-Image: the average of GEditBench-EN and the overall score of GenEval.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

from .arms import REFERENCE

Metric = Literal["GEdit", "GenEval"]


class Published(NamedTuple):
    """The numbers of one table by arm, and which of our scores each is read beside."""

    suite: str
    setting: str
    metric: Metric
    ground: str | None  # ours; None for the mean over grounds
    values: Mapping[str, float]


_ROUTING: Final = {"hard, per sample": 5.751, "soft mixture": 4.994}
_QUERY: Final = {"low": 5.751, "middle": 4.649, "high": 4.813}
_K: Final = {"K = 1": 5.751, "K = 4": 5.330, "K = 8 (dense)": 5.127}  # dense is K = 16 there

PUBLISHED: Final = (
    Published(
        "main",
        "t2i-edit",
        "GenEval",
        "t2i",
        {
            "source: base": 0.832,
            "source: edit": 0.711,
            "joint training": 0.808,
            "weight merge": 0.836,
            "offpolicy": 0.818,
            "diffusionopd": 0.833,
            "flowopd": 0.814,
            REFERENCE: 0.849,
        },
    ),
    Published(
        "main",
        "t2i-edit",
        "GEdit",
        "edit",
        {
            "source: edit": 4.930,
            "joint training": 4.617,
            "offpolicy": 4.528,
            "diffusionopd": 4.947,
            "flowopd": 4.854,
            REFERENCE: 5.347,
        },
    ),
    Published(
        "main",
        "local-global",
        "GEdit",
        None,
        {
            "source: local": 5.095,
            "source: global": 3.750,
            "joint training": 4.546,
            "weight merge": 4.715,
            "offpolicy": 4.736,
            "diffusionopd": 4.661,
            "flowopd": 4.679,
            REFERENCE: 5.498,
        },
    ),
    # The ablations are published for one model that is asked to edit; both of our settings edit.
    *(
        Published(suite, setting, "GEdit", ground, values)
        for suite, values in (("routing", _ROUTING), ("query", _QUERY), ("k", _K))
        for setting, ground in (("t2i-edit", "edit"), ("local-global", None))
    ),
)


def published_of(suite: str, setting: str) -> list[Published]:
    """The published tables that a table of ours is read beside."""
    return [table for table in PUBLISHED if (table.suite, table.setting) == (suite, setting)]


def ranks(scores: Mapping[str, float]) -> dict[str, int]:
    """1 for the highest score; equal scores share the better rank."""
    return {arm: 1 + sum(other > value for other in scores.values()) for arm, value in scores.items()}
