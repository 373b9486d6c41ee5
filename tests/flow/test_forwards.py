"""The plan of a rollout's forwards: every sample takes all its steps in order, and no slot stays empty."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from danceopd.flow import plan_forwards

STOPS = st.lists(st.integers(0, 9), max_size=12).map(lambda stops: sorted(stops, reverse=True))


@given(stops=STOPS, width=st.integers(1, 14))
def test_every_sample_takes_its_own_steps_in_order(stops: list[int], width: int) -> None:
    passed = defaultdict(list)
    for rows, states in plan_forwards(stops, width):
        assert 1 <= len(rows) == len(states) <= width and len(set(rows)) == len(rows)
        for row, state in zip(rows, states, strict=True):
            passed[row].append(state)
    assert passed == {row: list(range(stop)) for row, stop in enumerate(stops) if stop}


@given(stops=STOPS, width=st.integers(1, 14))
def test_forwards_are_full_until_nothing_waits(stops: list[int], width: int) -> None:
    forwards = plan_forwards(stops, width)
    started: set[int] = set()
    for rows, _ in forwards:
        started.update(rows)
        waiting = {row for row, stop in enumerate(stops) if stop} - started
        assert len(rows) == width or not waiting
    # No plan has fewer than the larger of these two, and this one has at most both.
    least = max(-(-sum(stops) // width), max(stops, default=0))
    assert least <= len(forwards) <= -(-sum(stops) // width) + max(stops, default=0)


@given(stops=STOPS, width=st.integers(1, 14))
def test_a_sample_keeps_its_slot_while_others_wait(stops: list[int], width: int) -> None:
    forwards = plan_forwards(stops, width)
    for (rows, _), (after, _) in pairwise(forwards):
        if len(after) == len(rows):
            kept = [row for row in rows if row in after]
            assert all(after.index(row) == rows.index(row) for row in kept)


def test_refilled_slots_need_fewer_forwards_than_batches_that_shrink() -> None:
    stops = [11, 10, 9, 3, 2, 1]
    assert len(plan_forwards(stops, 2)) == 19  # in pairs one after the other: 11 + 9 + 2 = 22
    assert [len(rows) for rows, _ in plan_forwards(stops, 6)] == [6, 5, 4, 3, 3, 3, 3, 3, 3, 2, 1]


def test_without_a_limit_the_moving_samples_are_always_the_first() -> None:
    for rows, states in plan_forwards([5, 3, 3, 1, 0], 5):
        assert rows == tuple(range(len(rows))) and len(set(states)) == 1
