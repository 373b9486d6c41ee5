"""How far two judges agree on the images that both judged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from danceopd.evaluation.base import Measured
from danceopd.evaluation.extra import needed_for
from danceopd.evaluation.judges.judge import BY

_Scores: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Share:
    """A number with the interval that holds it with 95 % by bootstrap over tasks.

    Attributes:
        value: None where it is not defined: a judge that always gives one score ranks nothing.
        low: end of the interval; None without a value, or where resampling never defines one.
        high: other end.
    """

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Agreement:
    """Two judges on one measure.

    Attributes:
        measure: without the judges' names.
        images: that both gave a number.
        one_alone: that only one of both gave a number.
        tasks: that the images belong to; what is resampled.
        exact: share of images with equal scores.
        within_one: share of images whose scores differ by at most 1.
        difference: mean of the second judge's score minus the first's.
        spearman: rank correlation rho, ties at their mean rank.
        kendall: rank correlation tau-b, which allows for ties.
    """

    measure: str
    images: int
    one_alone: int
    tasks: int
    exact: Share
    within_one: Share
    difference: Share
    spearman: Share
    kendall: Share


def compare_judges(
    rows: Mapping[str, Iterable[Measured]],
    first: str,
    second: str,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> list[Agreement]:
    """Agreement of two judges on each measure that both give.

    Args:
        rows: of each contender; the measures of a judge end in ``@`` and its name.
        first: name of a judge, such as ``gpt-4.1``.
        second: name of the other.
        resamples: for the intervals.
        seed: of the resampling.

    Raises:
        ValueError: they have no image in common.
        ImportError: scipy is not installed.
    """
    with needed_for("comparing judges"):
        import scipy.stats  # noqa: F401  # here rather than after the resampling began
    found: dict[str, dict[tuple[str, str, int], dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for contender, measured in rows.items():
        for row in measured:
            measure, by, judge = row.metric.partition(BY)
            if by and judge in (first, second) and row.value is not None:
                found[measure][contender, row.case, row.number][judge] = row.value
    agreements = []
    for measure, images in found.items():
        both = {image: scores for image, scores in images.items() if len(scores) == 2}
        if both:
            # Images of one task are of a kind, whoever made them.
            tasks = np.unique([case for _, case, _ in both], return_inverse=True)[1]
            pairs = np.array([(scores[first], scores[second]) for scores in both.values()])
            agreements.append(_agreement(measure, pairs, tasks, len(images), resamples, seed))
    if not agreements or first == second:
        raise ValueError(
            f"judges '{first}' and '{second}' have no image in common: judge the same images by both."
        )
    return agreements


def _agreement(
    measure: str, pairs: _Scores, tasks: NDArray[np.intp], images: int, resamples: int, seed: int
) -> Agreement:
    members = [np.flatnonzero(tasks == task) for task in range(tasks.max() + 1)]
    generator = np.random.default_rng(seed)
    drawn = [
        np.concatenate([members[task] for task in generator.integers(0, len(members), len(members))])
        for _ in range(resamples)
    ]

    def share(statistic: Callable[[_Scores], float]) -> Share:
        value = statistic(pairs)
        if np.isnan(value):
            return Share(None, None, None)
        values = np.array([statistic(pairs[index]) for index in drawn])
        values = values[~np.isnan(values)]
        if not len(values):
            return Share(value, None, None)
        low, high = np.quantile(values, (0.025, 0.975))
        return Share(value, float(low), float(high))

    return Agreement(
        measure,
        len(pairs),
        images - len(pairs),
        len(members),
        exact=share(lambda scores: float(np.mean(scores[:, 0] == scores[:, 1]))),
        within_one=share(lambda scores: float(np.mean(np.abs(scores[:, 0] - scores[:, 1]) <= 1))),
        difference=share(lambda scores: float(np.mean(scores[:, 1] - scores[:, 0]))),
        spearman=share(lambda scores: _correlation("spearman", scores)),
        kendall=share(lambda scores: _correlation("kendall", scores)),
    )


def _correlation(kind: str, scores: _Scores) -> float:
    """NaN where a judge gives one score to all."""
    from scipy.stats import kendalltau, rankdata

    one, other = scores.T
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    if kind == "kendall":
        return float(kendalltau(one, other).statistic)
    return float(np.corrcoef(rankdata(one), rankdata(other))[0, 1])
