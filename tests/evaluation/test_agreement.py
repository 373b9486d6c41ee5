"""Two judges beside each other."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from danceopd.evaluation import Measured
from danceopd.evaluation.judges import compare_judges


def rows(judge: str, values: list[float | None], measure: str = "overall") -> list[Measured]:
    return [
        Measured(
            str(index // 2), "any", "edit", index % 2, f"{measure}@{judge}", value, None if value else "-"
        )
        for index, value in enumerate(values)
    ]


def test_agreement_is_counted_on_the_images_that_both_judged() -> None:
    one = rows("a", [1, 2, 3, 4, None, 9])
    other = rows("b", [1, 3, 3, 7, 5, None])
    (found,) = compare_judges({"student": [*one, *other]}, "a", "b", resamples=200)
    assert (found.measure, found.images, found.one_alone, found.tasks) == ("overall", 4, 2, 2)
    assert found.exact.value == 0.5 and found.within_one.value == 0.75 and found.difference.value == 1.0
    assert found.spearman.value == pytest.approx(0.9486833)  # ranks 1 2 3 4 and 1 2.5 2.5 4
    assert found.kendall.value == pytest.approx(5 / np.sqrt(6 * 5))
    assert found.exact.low is not None and found.exact.high is not None
    assert found.exact.low <= 0.5 <= found.exact.high


def test_contenders_and_measures_are_kept_apart() -> None:
    given = {
        "student": [*rows("a", [1, 2]), *rows("b", [1, 2]), *rows("a", [3, 4], "quality")],
        "base": [*rows("a", [5, 6]), *rows("b", [6, 5]), *rows("b", [3, 4], "quality")],
    }
    (found,) = compare_judges(given, "a", "b", resamples=50)
    assert (found.measure, found.images, found.tasks) == ("overall", 4, 1)
    assert found.exact.value == 0.5 and found.within_one.value == 1.0


def test_a_judge_with_one_score_for_all_ranks_nothing() -> None:
    (found,) = compare_judges(
        {"student": [*rows("a", [3, 3, 3, 3]), *rows("b", [1, 2, 3, 4])]}, "a", "b", resamples=50
    )
    assert found.spearman.value is None and found.kendall.value is None and found.spearman.low is None
    assert found.exact.value == 0.25


def test_intervals_are_the_same_every_time_and_narrow_with_more_tasks() -> None:
    generator = np.random.default_rng(0)

    def widths(number: int) -> list[float]:
        one = generator.integers(1, 10, number).astype(float)
        other = np.clip(one + generator.integers(-2, 3, number), 1, 10)
        given = {"student": [*rows("a", list(one)), *rows("b", list(other))]}
        first, second = (compare_judges(given, "a", "b", resamples=100, seed=3) for _ in range(2))
        assert first == second
        (found,) = first
        shares = (found.exact, found.spearman, found.kendall)
        return [float(share.high or 0) - float(share.low or 0) for share in shares]

    assert all(few > many > 0 for few, many in zip(widths(20), widths(400), strict=True))


def test_judges_without_a_common_image_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="judges 'a' and 'b' have no image in common"):
        compare_judges({"student": [*rows("a", [1, None]), *rows("b", [None, 1])]}, "a", "b")
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(ImportError, match="comparing judges needs the package scipy"):
        compare_judges({}, "a", "b")
