"""Intervals hold what they promise, and verdicts say no more than these."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from danceopd.evaluation import Comparison, Measured, MetricInfo, Verdict, compare, verdict
from danceopd.evaluation.intervals import FEWEST, Estimate, estimate
from danceopd.evaluation.retention import scores
from danceopd.evaluation.tables import as_markdown

SCORE = MetricInfo("score", True, "Score")
DISTANCE = MetricInfo("distance", False, "Distance")
SHARPNESS = MetricInfo("sharpness", None, "Sharpness")


def measured(
    values: dict[str, list[float | None]], metric: str = "score", capability: str = "edit", images: int = 1
) -> list[Measured]:
    """By category, a number per case, the same for each of its images."""
    return [
        Measured(
            f"{category}-{place}",
            category,
            capability,
            number,
            metric,
            value,
            None if value is not None else "?",
        )  # type: ignore[arg-type]
        for category, of in values.items()
        for place, value in enumerate(of)
        for number in range(images)
    ]


def one(student: list[float | None], other: list[float | None], info: MetricInfo = SCORE) -> Comparison:
    rows = [measured({"c": list(of)}, info.name) for of in (student, other)]
    (row,) = compare(rows[0], {"base": rows[1]}, [info])
    return row


# -- intervals -----------------------------------------------------------------------------------------------


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    random = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        of = estimate({"few": random.normal(0.3, 1.0, 12), "many": random.normal(0.3, 2.0, 40)})
        assert of.low is not None and of.high is not None
        held += of.low <= 0.3 <= of.high
    assert 0.90 <= held / 200 <= 0.98


def test_every_category_counts_alike() -> None:
    assert estimate({"few": [1.0] * 2, "many": [0.0] * 98}).value == 0.5


def test_an_interval_is_the_same_whenever_it_is_asked_for() -> None:
    values = {"a": np.arange(20) % 7, "b": np.arange(9) % 2}
    assert estimate(values) == estimate(dict(values))


def test_what_sums_to_nothing_is_nothing() -> None:
    of = estimate({"c": [-0.1] * 3 + [0.0] * 69})
    assert of.high == 0.0 and of.low is not None and of.low < 0


@pytest.mark.parametrize("values", [{"c": [1.0] * (FEWEST - 1)}, {"a": [1.0] * 50, "b": [1.0]}])
def test_too_few_cases_have_no_interval(values: dict[str, list[float]]) -> None:
    assert estimate(values) == Estimate(1.0, None, None)


# -- verdicts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.01, 0.02, "kept"),
        (-0.04, -0.01, "kept"),  # a loss, but none beyond the margin
        (0.01, 0.04, "kept"),  # a gain, but none beyond the margin
        (-0.04, 0.3, "kept"),  # no loss beyond the margin, and a gain is not sure
        (0.01, 0.2, "gained"),
        (-0.2, -0.01, "lost"),
        (-0.2, 0.0, "undecided"),  # 0 is in it
        (-0.2, 0.2, "undecided"),
    ],
)
def test_a_verdict_is_what_the_interval_says(low: float, high: float, expected: Verdict) -> None:
    of = Estimate((low + high) / 2, low, high)
    assert verdict(of, 0.05, True) == expected
    assert verdict(Estimate(-of.value, -high, -low), 0.05, False) == expected


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(-0.04, 0.04, "kept"), (0.01, 0.2, "higher"), (-0.2, -0.01, "lower"), (-0.2, 0.01, "undecided")],
)
def test_where_neither_more_nor_less_is_better(low: float, high: float, expected: Verdict) -> None:
    assert verdict(Estimate((low + high) / 2, low, high), 0.05, None) == expected


@given(
    low=st.floats(-1, 1),
    width=st.floats(0, 1),
    margin=st.floats(0, 0.5),
    better=st.sampled_from([True, False]),
)
def test_lost_and_gained_only_where_the_interval_excludes_0(
    low: float, width: float, margin: float, better: bool
) -> None:
    said = verdict(Estimate(low + width / 2, low, low + width), margin, better)
    if said in ("lost", "gained"):
        assert low > 0 or low + width < 0
        assert (low > 0) == ((said == "gained") == better)


def test_without_an_interval_nothing_is_decided() -> None:
    row = one([0.0] * 5, [1.0] * 5)
    assert (row.difference, row.low, row.verdict) == (-1.0, None, "undecided")


# -- comparisons ---------------------------------------------------------------------------------------------


def test_a_sure_loss_is_lost_and_noise_is_undecided() -> None:
    random = np.random.default_rng(1)
    other = list(random.normal(5.0, 1.0, 40))
    assert one([value - 1 for value in other], other).verdict == "lost"
    assert one([value + 1 for value in other], other).verdict == "gained"
    assert one([value - 0.1 for value in other], other).verdict == "kept"  # 5 % of 5 is 0.25
    assert one([value + 1 for value in other], other, DISTANCE).verdict == "lost"
    assert one([value + 1 for value in other], other, SHARPNESS).verdict == "higher"
    assert one(list(random.normal(5.0, 4.0, 10)), other[:10]).verdict == "undecided"


def test_images_of_a_case_are_averaged_first() -> None:
    other = measured({"c": [0.0] * 10}) + measured({"c": [0.0]}, images=100)[1:]
    student = [replace(row, value=float(row.number > 0)) for row in other]
    (row,) = compare(student, {"base": other}, [SCORE])
    assert row.student == pytest.approx(0.99 / 10) and row.cases == 10


def test_cases_without_a_number_are_left_out_on_both_sides_and_counted() -> None:
    row = one([1.0, None, *[2.0] * 9], [1.0, 9.0, *[2.0] * 8, None])
    assert (row.cases, row.left_out) == (9, 2)
    assert row.student == row.other and row.difference == 0.0
    rows = {"student": measured({"c": [1.0, None]}), "base": measured({"c": [None, None]})}
    student, base = scores(rows, [SCORE])
    assert (student.mean, student.cases, student.problems) == (1.0, 1, 1)
    assert (base.mean, base.cases, base.problems) == (None, 0, 2)
    assert compare(rows["student"], {"base": rows["base"]}, [SCORE]) == []


def test_rows_are_by_capability_overall_and_in_each_category() -> None:
    student = measured({"x": [1.0] * 8, "y": [0.0] * 8}) + measured({"z": [1.0] * 8}, capability="t2i")
    other = measured({"x": [0.0] * 8, "y": [0.0] * 8}) + measured({"z": [1.0] * 8}, capability="t2i")
    rows = compare(student, {"base": other}, [SCORE])
    assert [(row.capability, row.category, row.difference) for row in rows] == [
        ("t2i", "z", 0.0),
        ("edit", None, 0.5),
        ("edit", "x", 1.0),
        ("edit", "y", 0.0),
    ]


@pytest.mark.parametrize(
    ("only", "expected"), [("t2i", ["z"]), ("y", ["y"]), ("edit", [None, "x", "y"]), ("x t2i", ["z", "x"])]
)
def test_an_expert_is_compared_on_what_it_is_meant_for(only: str, expected: list[str | None]) -> None:
    rows = measured({"x": [1.0] * 8, "y": [0.0] * 8}) + measured({"z": [1.0] * 8}, capability="t2i")
    found = compare(rows, {"expert": rows}, [SCORE], only={"expert": frozenset(only.split())})
    assert [row.category for row in found] == expected


def test_the_margin_is_a_share_of_the_others_score() -> None:
    rows = [measured({"c": [value] * 10}) for value in (3.9, 4.0)]
    (row,) = compare(rows[0], {"base": rows[1]}, [SCORE], margin=0.05)
    assert row.margin == pytest.approx(0.2) and row.verdict == "kept"
    (row,) = compare(rows[0], {"base": rows[1]}, [SCORE], margin=0.01)
    assert row.verdict == "lost"
    with pytest.raises(ValueError, match="margin must be at least 0"):
        compare(rows[0], {"base": rows[1]}, [SCORE], margin=-1.0)


def test_without_any_difference_few_cases_say_nothing() -> None:
    same = [float(number % 3) for number in range(72)]
    assert one(same[:-1], same[:-1]).verdict == "undecided"
    assert one(same, same).verdict == "kept"
    nothing = [0.0] * 100
    assert one(nothing, nothing).verdict == "undecided"  # there was nothing to keep
    assert one([0.0] * 10, [1.0] * 10).verdict == "lost"


def test_nothing_counts_as_kept_where_much_was_left_out() -> None:
    scores: list[float | None] = [float(number % 5) for number in range(100)]
    better: list[float | None] = [None if number < 6 else 1.0 + number % 5 for number in range(100)]
    assert one(better, scores).verdict == "undecided"
    assert one([1.0 if value is None else value for value in better], scores).verdict == "gained"
    assert one([None, *scores[1:]], scores).verdict == "kept"
    worse: list[float | None] = [None if number < 6 else number % 5 - 1.0 for number in range(100)]
    assert one(worse, scores).verdict == "lost"
    (row,) = compare(measured({"c": better}), {"base": measured({"c": scores})}, [SCORE])
    assert "| 94 (without 6) |" in as_markdown([row], [SCORE])


def test_a_gain_more_makes_few_cases_no_surer_that_nothing_was_lost() -> None:
    assert one([1.0, *[0.5] * 70], [0.5] * 71).verdict == "undecided"  # as without the gain
    assert one([1.0, *[0.5] * 71], [0.5] * 72).verdict == "kept"
    assert one([0.0, *[0.5] * 70], [0.5] * 71, SHARPNESS).low is None
    assert one([1.0] * 10, [0.5] * 10).verdict == "gained"  # which all cases say


def test_what_neither_side_has_is_left_out_too() -> None:
    values = [None if number < 6 else 1.0 + number % 5 for number in range(100)]
    row = one(list(values), list(values))
    assert (row.cases, row.left_out, row.verdict) == (94, 6, "undecided")
    assert one([None, *values[6:]], [None, *values[6:]]).verdict == "kept"


def test_an_image_that_is_missing_on_one_side_is_left_out_on_both() -> None:
    """Else whoever lacks the hard images is the better one."""
    values = {"c": [1.0] * 80}
    every = measured(values, images=4)
    hard = [replace(row, value=0.0) if row.number == 0 else row for row in every]
    lacking = [replace(row, value=None, problem="?") if row.number == 0 else row for row in hard]
    (row,) = compare(lacking, {"base": hard}, [SCORE])
    assert (row.student, row.other, row.difference) == (1.0, 1.0, 0.0)
    assert (row.cases, row.left_out, row.verdict) == (80, 0, "undecided")  # a quarter of the images


def test_numbers_that_hang_on_several_cases_have_no_interval() -> None:
    info = replace(SHARPNESS, independent=False)
    row = one([2.0, 3.0] * 50, [1.0, 2.0] * 50, info)
    assert (row.difference, row.low, row.high, row.verdict) == (1.0, None, None, "undecided")
