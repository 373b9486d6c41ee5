"""What a student has kept of what others can do: differences, how sure they are, and what follows."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from danceopd.evaluation.base import Capability, Measured, MetricInfo
from danceopd.evaluation.intervals import Estimate, estimate

Verdict = Literal["kept", "lost", "gained", "higher", "lower", "undecided"]

LEFT_OUT: Final = 0.05
"""Share of the images without which nothing counts as kept: those without a number may be the worst."""

_ByCategory = dict[str, dict[str, float]]
"""Category -> case -> the mean over its images."""

_Images = dict[str, dict[str, dict[int, float | None]]]
"""Category -> case -> image -> its number, where it has one."""


class _Pairs(NamedTuple):
    """A category: a number of both sides for each case, and what has none on one side or on both."""

    values: list[tuple[float, float]]
    left_out: int
    images: int
    images_left_out: int


@dataclass(frozen=True)
class Score:
    """The mean of one contender.

    Attributes:
        contender: whose.
        capability: of the cases.
        category: of the cases; None for the mean over the capability's categories.
        metric: what was measured.
        mean: over cases, after the mean over each one's images.
        cases: with a number.
        problems: images without a number.
    """

    contender: str
    capability: Capability
    category: str | None
    metric: str
    mean: float | None
    cases: int
    problems: int


@dataclass(frozen=True)
class Comparison:
    """The student beside another contender, on the cases that both have numbers for.

    Attributes:
        against: the other.
        capability: of the cases.
        category: of the cases; None for the mean over the capability's categories.
        metric: what was measured.
        student: its mean.
        other: the other's mean.
        difference: the student's minus the other's.
        low, high: ends of the 95 % interval of the difference; None where there are too few cases for one,
            or these are not independent.
        margin: what counts as no loss, in the metric's unit.
        cases: of which both have a number for the same image.
        left_out: all other cases.
        verdict: see `verdict`; none of keeping or gaining where more than `LEFT_OUT` of the images are.
    """

    against: str
    capability: Capability
    category: str | None
    metric: str
    student: float
    other: float
    difference: float
    low: float | None
    high: float | None
    margin: float
    cases: int
    left_out: int
    verdict: Verdict


def verdict(of: Estimate, margin: float, higher_is_better: bool | None) -> Verdict:
    """What an interval says of a difference, student minus other.

    With a better direction: "gained" where the interval excludes 0 and a gain beyond the margin is in it;
    "kept" where it excludes a loss beyond the margin; "lost" where it excludes 0 on the other side and a loss
    beyond the margin is in it; else "undecided". Without one: "kept" inside the margin on both sides,
    "higher" or "lower" where it excludes 0, else "undecided".

    Args:
        of: the difference; without an interval it is "undecided".
        margin: at least 0, in the same unit.
        higher_is_better: of the metric.
    """
    if of.low is None or of.high is None:
        return "undecided"
    low, high = (of.low, of.high) if higher_is_better is not False else (-of.high, -of.low)
    if higher_is_better is None:
        if -margin <= low and high <= margin:
            return "kept"
        return "higher" if low > 0 else "lower" if high < 0 else "undecided"
    if low > 0 and high > margin:
        return "gained"
    if low >= -margin:
        return "kept"
    return "lost" if high < 0 else "undecided"


def compare(
    student: Iterable[Measured],
    others: Mapping[str, Iterable[Measured]],
    measures: Sequence[MetricInfo],
    *,
    margin: float = 0.05,
    only: Mapping[str, frozenset[str]] | None = None,
) -> list[Comparison]:
    """The student beside every other contender: by capability and metric, overall and in every category.

    Args:
        student: its measurements.
        others: theirs, by name.
        measures: the metrics to compare by, in the order of the result.
        margin: what counts as no loss, as a share of the other's mean.
        only: capabilities and categories that a contender is compared on, by its name; all where it has none.

    Raises:
        ValueError: `margin` is below 0.
    """
    if not margin >= 0:
        raise ValueError(f"margin must be at least 0, but got {margin}; 0.05 is 5 % of the other's score.")
    ours = _by_image(student)
    found = []
    for name, rows in others.items():
        theirs, part = _by_image(rows), (only or {}).get(name, frozenset())
        for capability, info in _asked(measures, ours):
            pairs = _pairs(ours[capability, info.name], theirs.get((capability, info.name), {}))
            if part and capability not in part:
                pairs = {category: of for category, of in pairs.items() if category in part}
            rooms: list[str | None] = [None, *pairs] if len(pairs) > 1 else list(pairs)
            for category in rooms:
                chosen = pairs if category is None else {category: pairs[category]}
                row = _compared(name, capability, category, info, chosen, margin)
                if row is not None:
                    found.append(row)
    return found


def scores(rows: Mapping[str, Sequence[Measured]], measures: Sequence[MetricInfo]) -> list[Score]:
    """The means of every contender: by capability and metric, overall and in every category."""
    found = []
    for name, measured in rows.items():
        means = _case_means(measured)
        lacking: dict[tuple[Capability, str, str], int] = defaultdict(int)
        for row in measured:
            lacking[row.capability, row.metric, row.category] += row.value is None
        for capability, info in _asked(measures, means):
            of = means[capability, info.name]
            each = [_mean(cases.values()) for cases in of.values() if cases]
            if len(of) > 1:
                count = sum(map(len, of.values()))
                problems = sum(lacking[capability, info.name, category] for category in of)
                mean = _mean(each) if each else None
                found.append(Score(name, capability, None, info.name, mean, count, problems))
            for category, cases in of.items():
                problems = lacking[capability, info.name, category]
                mean = _mean(cases.values()) if cases else None
                found.append(Score(name, capability, category, info.name, mean, len(cases), problems))
    return found


def case_means(rows: Iterable[Measured], metric: str) -> dict[str, float]:
    """The mean over a case's images, by the case's key."""
    return {
        case: mean
        for (_, name), categories in _case_means(rows).items()
        if name == metric
        for cases in categories.values()
        for case, mean in cases.items()
    }


def _compared(
    name: str,
    capability: Capability,
    category: str | None,
    info: MetricInfo,
    pairs: Mapping[str, _Pairs],
    margin: float,
) -> Comparison | None:
    there = {key: of.values for key, of in pairs.items() if of.values}
    if not there:
        return None
    student, other = (_mean(_mean(pair[side] for pair in of) for of in there.values()) for side in (0, 1))
    of = estimate({key: [ours - theirs for ours, theirs in pairs] for key, pairs in there.items()})
    if not info.independent:
        of = Estimate(of.value, None, None)
    width = margin * abs(other)
    count, left_out = sum(map(len, there.values())), sum(of.left_out for of in pairs.values())
    much = sum(of.images_left_out for of in pairs.values()) > LEFT_OUT * sum(
        of.images for of in pairs.values()
    )
    found = verdict(of, width, info.higher_is_better)
    nothing_to_keep = student == other == 0.0
    if nothing_to_keep or (found in ("kept", "gained") and much):
        found = "undecided"
    return Comparison(
        name,
        capability,
        category,
        info.name,
        student,
        other,
        of.value,
        of.low,
        of.high,
        width,
        count,
        left_out,
        found,
    )


def _pairs(ours: _Images, theirs: _Images) -> dict[str, _Pairs]:
    """By category, in the order of the cases' keys: what is missing on one side is left out on both."""
    found = {}
    for category in sorted(ours.keys() & theirs.keys()):
        one, other = ours[category], theirs[category]
        keys = sorted(one.keys() | other.keys())
        values, images, used = [], 0, 0
        for case in keys:
            mine, its = one.get(case, {}), other.get(case, {})
            both = [
                (first, second)
                for number, first in mine.items()
                if first is not None and (second := its.get(number)) is not None
            ]
            images += len(mine.keys() | its.keys())
            used += len(both)
            if both:
                values.append((_mean(pair[0] for pair in both), _mean(pair[1] for pair in both)))
        found[category] = _Pairs(values, len(keys) - len(values), images, images - used)
    return found


def _by_image(rows: Iterable[Measured]) -> dict[tuple[Capability, str], _Images]:
    """By capability and metric."""
    found: dict[tuple[Capability, str], _Images] = {}
    for row in rows:
        categories = found.setdefault((row.capability, row.metric), {})
        categories.setdefault(row.category, {}).setdefault(row.case, {})[row.number] = row.value
    return found


def _case_means(rows: Iterable[Measured]) -> dict[tuple[Capability, str], _ByCategory]:
    """By capability and metric; a case without a number is in no category's cases, which may be empty."""
    values: dict[tuple[Capability, str], dict[str, dict[str, list[float]]]] = {}
    for row in rows:
        categories = values.setdefault((row.capability, row.metric), {})
        cases = categories.setdefault(row.category, {})
        if row.value is not None:
            cases.setdefault(row.case, []).append(row.value)
    return {
        key: {
            category: {case: _mean(given) for case, given in sorted(cases.items())}
            for category, cases in sorted(categories.items())
        }
        for key, categories in values.items()
    }


def _asked(
    measures: Sequence[MetricInfo], there: Mapping[tuple[Capability, str], Any]
) -> Iterator[tuple[Capability, MetricInfo]]:
    capabilities: tuple[Capability, ...] = ("t2i", "edit")
    for capability in capabilities:
        for info in measures:
            if (capability, info.name) in there:
                yield capability, info


def _mean(values: Iterable[float]) -> float:
    given = list(values)
    return math.fsum(given) / len(given)  # whatever the order that they were measured in
