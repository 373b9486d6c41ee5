from __future__ import annotations

import dataclasses
import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danceopd.flow import QueryLaw, SigmaGrid
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


@pytest.mark.parametrize("count", [2, 5, 15, 16])
def test_several_states_of_a_sample_differ_and_rise(count: int) -> None:
    plan = dataclasses.replace(PLAN, num_states=count)
    for slot in plan.step(7):
        assert len(set(slot.states)) == count and list(slot.states) == sorted(slot.states)
        assert slot.states[0] >= 0 and slot.states[-1] < 16


def test_the_first_state_drawn_is_that_of_a_single_query() -> None:
    several = dataclasses.replace(PLAN, num_states=3)
    for one, more in zip(PLAN.step(3), several.step(3), strict=True):
        assert one.states[0] in more.states
        assert (one.route, one.row, one.noise_seed, one.drop) == (more.route, more.row, more.noise_seed,
                                                                 more.drop)  # fmt: skip


def test_a_group_shares_all_but_its_noise() -> None:
    plan = dataclasses.replace(PLAN, group_size=4)
    for step in range(20):
        slots = plan.step(step)
        assert len({slot.noise_seed for slot in slots}) == 8
        for first in (0, 4):
            group = [dataclasses.replace(slot, noise_seed=0) for slot in slots[first : first + 4]]
            assert len(set(group)) == 1
    assert plan.step(0)[0] == PLAN.step(0)[0]
    split = dataclasses.replace(plan, slots_per_rank=2, num_ranks=4)
    assert sum((split.step(3, rank) for rank in range(4)), ()) == plan.step(3)


def test_one_route_per_update_is_shared_over_ranks_and_changes_nothing_else() -> None:
    each = dataclasses.replace(PLAN, num_ranks=2)
    shared = dataclasses.replace(each, one_route=True)
    routes = []
    for step in range(400):
        slots = [*shared.step(step, 0), *shared.step(step, 1)]
        routes.append(slots[0].route)
        assert len({slot.route for slot in slots}) == 1
        assert [slot.states for slot in slots] == [s.states for r in (0, 1) for s in each.step(step, r)]
    shares = np.bincount(routes, minlength=len(PLAN.route_weights)) / len(routes)
    wanted = np.array(PLAN.route_weights) / sum(PLAN.route_weights)
    assert np.abs(shares - wanted).max() < 4 * np.sqrt(0.25 / len(routes))


def test_stratified_queries_keep_the_law_and_spread_within_each_update() -> None:
    plan = dataclasses.replace(PLAN, stratified=True, slots_per_rank=16, query=QueryLaw(1.0, 1.0))
    steps = [plan.step(step) for step in range(50)]
    for slots in steps:  # one sample in each sixteenth of a uniform law: every state once
        assert sorted(slot.states[0] for slot in slots) == list(range(16))
    assert len({tuple(slot.states[0] for slot in slots) for slots in steps}) == 50
    low = dataclasses.replace(PLAN, stratified=True)
    counts = np.bincount([slot.states[0] for step in range(500) for slot in low.step(step)], minlength=16)
    expected = np.array(low.query.probabilities(16)) * 4000
    assert np.abs(counts - expected).max() < 3 * np.sqrt(expected.max())
    split = dataclasses.replace(plan, slots_per_rank=4, num_ranks=4)
    assert sum((split.step(3, rank) for rank in range(4)), ()) == plan.step(3)


def test_a_law_over_sigma_asks_the_grid_of_the_row() -> None:
    grids = {0: SigmaGrid.uniform(64), 1: SigmaGrid.shifted(64, 3.0), 2: SigmaGrid.shifted(64, 6.0)}
    plan = dataclasses.replace(
        PLAN,
        num_steps=64,
        query=QueryLaw(5.0, 2.0, over="sigma"),
        grid_of=lambda route, row: grids[route],
        route_weights=(1.0, 1.0, 1.0),
    )
    slots = [slot for step in range(500) for slot in plan.step(step)]
    for route, grid in grids.items():
        mine = [grid.values[slot.states[0]] for slot in slots if slot.route == route]
        # The state is the last one that is not cleaner than 1 - u, so its level lies above by half a step.
        assert np.mean(mine) == pytest.approx(2 / 7, abs=0.05)
    shifted = [slot.states[0] for slot in slots if slot.route == 2]
    assert np.mean(shifted) > np.mean([slot.states[0] for slot in slots if slot.route == 0]) + 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_states": 17}, "num_states must lie in 1 .. 16"),
        ({"num_states": 2, "stratified": True}, "num_states must be 1 with stratified queries, but got 2"),
        ({"num_states": 2, "query": QueryLaw(index=3)}, "num_states must be 1 with a fixed state, but got 2"),
        ({"group_size": 3}, "group_size must divide the 8 samples of an update, but got 3"),
        ({"num_ranks": 0}, "on at least one rank, but got 8 on 0"),
    ],
)
def test_more_bad_plans_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PLAN, **change)  # type: ignore[arg-type]
