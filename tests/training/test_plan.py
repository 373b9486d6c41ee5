from __future__ import annotations

import dataclasses
import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danceopd.flow import QueryLaw
from danceopd.training.plan import Plan, SlotPlan

from ..flow.statistics import chi_square, critical_value

PLAN = Plan(
    seed=11,
    route_weights=(1.0, 2.0, 5.0),
    route_sizes=(7, 1, 1000),
    query=QueryLaw(),
    num_steps=16,
    drop_probability=0.25,
    slots_per_rank=8,
)
SLOTS = [slot for step in range(500) for slot in PLAN.step(step)]


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.integers(0, 100), st.integers(0, 7))
def test_a_slot_is_a_pure_function(step: int, rank: int, slot: int) -> None:
    first = PLAN.slot(step, rank, slot)
    PLAN.step(step + 1, rank)
    assert PLAN.slot(step, rank, slot) == first == pickle.loads(pickle.dumps(PLAN)).slot(step, rank, slot)


def test_steps_can_be_asked_for_in_any_order() -> None:
    forward = [PLAN.step(step) for step in range(10)]
    assert [PLAN.step(step) for step in reversed(range(10))] == forward[::-1]


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_the_global_batch_does_not_depend_on_the_split(ranks: int) -> None:
    split = dataclasses.replace(PLAN, slots_per_rank=8 // ranks)
    for step in range(20):
        assert sum((split.step(step, rank) for rank in range(ranks)), ()) == PLAN.step(step)


def test_the_plan_is_the_same_on_every_machine() -> None:
    """Written down once: a run of an older version can still be replayed."""
    assert PLAN.slot(0, 0, 0) == SlotPlan(
        route=1, row=0, noise_seed=6286049561542874439, states=(10,), drop=True, offset=0.17509769010198017
    )
    assert PLAN.slot(123, 1, 5) == SlotPlan(
        route=0, row=5, noise_seed=2592818527073745909, states=(10,), drop=False, offset=0.5878705139811825
    )


def test_route_frequencies_follow_the_weights() -> None:
    counts = Counter(slot.route for slot in SLOTS)
    expected = np.array([1, 2, 5]) / 8 * len(SLOTS)
    assert chi_square([counts[route] for route in range(3)], expected) < critical_value(2)


def test_query_indices_follow_the_law() -> None:
    expected = np.array(PLAN.query.probabilities(16)) * len(SLOTS)
    counts = np.bincount([slot.states[-1] for slot in SLOTS], minlength=16)
    kept = expected > 5
    assert chi_square(counts[kept], expected[kept]) < critical_value(int(kept.sum()) - 1)
    assert len(counts) == 16


def test_rows_cover_each_route_evenly() -> None:
    assert all(0 <= slot.row < PLAN.route_sizes[slot.route] for slot in SLOTS)
    rows = Counter(slot.row for slot in SLOTS if slot.route == 0)
    expected = sum(rows.values()) / 7
    assert chi_square([rows[row] for row in range(7)], [expected] * 7) < critical_value(6)


def test_prompts_are_dropped_as_often_as_asked() -> None:
    dropped = sum(slot.drop for slot in SLOTS) / len(SLOTS)
    assert dropped == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / len(SLOTS)) ** 0.5)
    for probability, outcome in ((0.0, {False}), (1.0, {True})):
        plan = dataclasses.replace(PLAN, drop_probability=probability)
        assert {slot.drop for step in range(50) for slot in plan.step(step)} == outcome


def test_noise_seeds_never_repeat() -> None:
    seeds = {slot.noise_seed for slot in SLOTS}
    assert len(seeds) == len(SLOTS)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_routes_and_queries_are_independent() -> None:
    low = np.array([slot.states[-1] >= 11 for slot in SLOTS])
    route = np.array([slot.route == 2 for slot in SLOTS])
    assert abs(np.corrcoef(low, route)[0, 1]) < 4 / len(SLOTS) ** 0.5


def test_changing_one_setting_changes_nothing_else() -> None:
    changed = dataclasses.replace(PLAN, query=QueryLaw(2.0, 5.0), drop_probability=0.5)
    for one, other in zip(PLAN.step(3), changed.step(3), strict=True):
        assert (one.route, one.row, one.noise_seed) == (other.route, other.row, other.noise_seed)


def test_another_seed_is_another_plan() -> None:
    for seed in (0, 12, 2**64 - 1):
        assert dataclasses.replace(PLAN, seed=seed).step(0) != PLAN.step(0)


def test_a_route_of_weight_zero_is_never_taken() -> None:
    for weights in ((0.0, 1.0, 1.0), (1.0, 0.0, 1.0), (0.1, 0.2, 0.0)):
        plan = dataclasses.replace(PLAN, route_weights=weights)
        taken = {slot.route for step in range(100) for slot in plan.step(step)}
        assert taken == {route for route in range(3) if weights[route]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": -1}, "seed must lie in"),
        ({"seed": 2**64}, "seed must lie in"),
        ({"route_sizes": (1, 2)}, "got 2 for 3 weights"),
        ({"route_sizes": (1, 0, 2)}, "route_sizes must be 1 or above"),
        ({"route_weights": (0.0, 0.0, 0.0)}, "weights must be finite, >= 0 and not all 0"),
        ({"drop_probability": 1.5}, "drop_probability must lie in"),
        ({"slots_per_rank": 0}, "slots_per_rank must be at least 1"),
        ({"num_steps": 0}, "num_states must be at least 1"),
        ({"query": QueryLaw(index=16)}, "index must be below num_states"),
    ],
)
def test_a_bad_plan_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PLAN, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("place", [(-1, 0, 0), (0, -1, 0), (0, 0, 8), (0, 0, -1)])
def test_a_slot_outside_the_plan_is_refused(place: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="slot below 8"):
        PLAN.slot(*place)
