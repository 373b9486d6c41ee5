"""How much images differ that need not be alike; where a student has collapsed, they hardly do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from danceopd.evaluation.base import Case, Measured, MetricInfo
from danceopd.evaluation.metrics.features import Features

DIVERSITY: Final = (
    MetricInfo("diversity_noise", None, "Diversity over noises"),
    MetricInfo("diversity_category", None, "Diversity within the category", independent=False),
)


def measure_diversity(images: Sequence[tuple[Case, Sequence[Path]]], features: Features) -> list[Measured]:
    """Mean distance (1 - cosine) between images, a row per case and metric, under number 0.

    `diversity_noise` is among the images of the case itself, which come from several noises; cases with one
    image have none. `diversity_category` is between the images of the case and those of the other cases of
    its category, so its mean over a category is the mean distance between cases; a category with one case
    has none.

    Args:
        images: each case with all of its images.
        features: in whose space distances are taken.
    """
    rows: list[Measured] = []
    seen: dict[str, Tensor] = {}
    members: dict[tuple[str, str], list[str]] = defaultdict(list)
    for case, paths in images:
        try:
            seen[case.key] = torch.stack([features.embed(path) for path in paths])
            members[case.capability, case.category].append(case.key)
        except ValueError as error:
            names = [info.name for info in DIVERSITY]
            rows += [_row(case, name, None, str(error)) for name in names[0 if len(paths) > 1 else 1 :]]
    for case, _ in images:
        if case.key in seen:
            own = seen[case.key]
            if len(own) > 1:
                # The diagonal of ones is taken out before the mean.
                likeness = (own @ own.T).sum() - own.square().sum()
                distance = 1 - likeness.item() / (len(own) * (len(own) - 1))
                rows.append(_row(case, "diversity_noise", distance))
            others = [seen[key] for key in members[case.capability, case.category] if key != case.key]
            if others:
                rows.append(_row(case, "diversity_category", 1 - (own @ torch.cat(others).T).mean().item()))
    return rows


def _row(case: Case, metric: str, value: float | None, problem: str | None = None) -> Measured:
    return Measured(case.key, case.category, case.capability, 0, metric, value, problem)
