from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danceopd.flow import QUERY_LAWS, QueryLaw, SigmaGrid

from .statistics import chi_square, critical_value

laws = st.builds(QueryLaw, st.floats(0.05, 50.0), st.floats(0.05, 50.0))


def test_early_stop_saves_31_7_percent_at_16_steps() -> None:
    """METHOD: Beta(5, 2), N = 16."""
    expected = QueryLaw(5.0, 2.0).expected_forwards(16)
    assert expected == pytest.approx(10.93, abs=0.005)
    assert 1.0 - expected / 16 == pytest.approx(0.317, abs=0.0005)


def test_probabilities_of_beta_5_2_in_closed_form() -> None:
    """For Beta(5, 2) the distribution function is 6 x^5 - 5 x^6."""
    edges = [6 * (i / 16) ** 5 - 5 * (i / 16) ** 6 for i in range(17)]
    assert QueryLaw(5.0, 2.0).probabilities(16) == pytest.approx(np.diff(edges), abs=1e-14)


@settings(deadline=None)
@given(laws, st.integers(1, 64))
def test_probabilities_are_a_law(law: QueryLaw, num_states: int) -> None:
    probabilities = law.probabilities(num_states)
    assert len(probabilities) == num_states
    assert min(probabilities) >= -1e-12
    assert math.fsum(probabilities) == pytest.approx(1.0, abs=1e-12)


@settings(deadline=None)
@given(laws, st.integers(1, 64))
def test_swapping_alpha_and_beta_mirrors_the_trajectory(law: QueryLaw, num_states: int) -> None:
    mirrored = QueryLaw(law.beta, law.alpha).probabilities(num_states)
    assert law.probabilities(num_states) == pytest.approx(mirrored[::-1], abs=1e-11)


@pytest.mark.parametrize("law", [*QUERY_LAWS.values(), QueryLaw(0.5, 0.7)])
def test_draws_follow_the_floor_of_a_beta_variable(law: QueryLaw) -> None:
    rng = np.random.default_rng(7)
    drawn = np.bincount([law.draw(rng, 16) for _ in range(20_000)], minlength=16)
    beta = np.bincount(np.minimum(16 * rng.beta(law.alpha, law.beta, 20_000), 15).astype(int), minlength=16)
    expected = np.array(law.probabilities(16)) * 20_000
    kept = expected > 5
    assert chi_square(drawn[kept], expected[kept]) < critical_value(int(kept.sum()) - 1)
    assert chi_square(beta[kept], expected[kept]) < critical_value(int(kept.sum()) - 1)


def test_a_draw_uses_one_number() -> None:
    rng, reference = np.random.default_rng(3), np.random.default_rng(3)
    for law in QUERY_LAWS.values():
        law.draw(rng, 16)
        reference.random()
    assert rng.random() == reference.random()


def test_presets_order_by_noise() -> None:
    forwards = [QUERY_LAWS[name].expected_forwards(16) for name in ("low", "uniform", "high")]
    assert forwards == sorted(forwards, reverse=True)
    assert QUERY_LAWS["uniform"].probabilities(4) == pytest.approx((0.25,) * 4)
    assert QueryLaw() == QUERY_LAWS["low"]


@pytest.mark.parametrize("over", ["index", "sigma"])
def test_a_share_of_the_queries_may_be_spread_evenly(over: Literal["index", "sigma"]) -> None:
    grid = SigmaGrid.shifted(8, 3.0)
    alone, even, mixed = (QueryLaw(over=over, uniform_share=share) for share in (0.0, 1.0, 0.3))
    pairs = zip(alone.probabilities(grid), even.probabilities(grid), strict=True)
    assert mixed.probabilities(grid) == pytest.approx([0.7 * p + 0.3 * q for p, q in pairs])
    steps = [high - low for high, low in pairwise(grid.values)]
    assert even.probabilities(grid) == pytest.approx([1 / 8] * 8 if over == "index" else steps)
    assert alone.probabilities(grid) == QueryLaw(over=over).probabilities(grid)


@pytest.mark.parametrize("index", [0, 5, 7])
def test_a_fixed_index_is_always_drawn(index: int) -> None:
    law = QueryLaw(index=index)
    rng = np.random.default_rng(0)
    assert {law.draw(rng, 8) for _ in range(50)} == {index}
    assert law.expected_forwards(8) == index


def test_bad_laws_are_refused() -> None:
    for alpha in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="alpha must be above 0"):
            QueryLaw(alpha=alpha)
    with pytest.raises(ValueError, match="beta must be above 0"):
        QueryLaw(beta=0.0)
    with pytest.raises(ValueError, match="index must be 0 or above, but got -1"):
        QueryLaw(index=-1)
    with pytest.raises(ValueError, match=r"index must be below num_states \(8\), but got 8"):
        QueryLaw(index=8).probabilities(8)
    with pytest.raises(ValueError, match="num_states must be at least 1, but got 0"):
        QueryLaw().probabilities(0)
    with pytest.raises(ValueError, match=r"uniform_share must lie in 0 \.\. 1, but got 1\.5"):
        QueryLaw(uniform_share=1.5)
