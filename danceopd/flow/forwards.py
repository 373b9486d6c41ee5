"""Which samples share a forward of a rollout: slots that are refilled as soon as their sample has stopped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Forward(NamedTuple):
    """One evaluation of the field.

    Attributes:
        rows: the samples in it, one per slot.
        states: where each of them is on its trajectory.
    """

    rows: tuple[int, ...]
    states: tuple[int, ...]


def plan_forwards(stops: Sequence[int], width: int) -> list[Forward]:
    """The forwards that bring sample b to state ``stops[b]``, each from state 0.

    A slot whose sample has stopped takes the next one at once, which starts there while its neighbours are
    further on. So every forward but the last few is `width` samples wide, and there are about
    ``sum(stops) / width`` of them. Nothing depends on what a forward returns: the plan of a rollout is known
    before it begins.

    Args:
        stops: >= 0 and falling, since long trajectories that start last would end in narrow forwards.
        width: samples per forward at most, >= 1.
    """
    waiting = [row for row, stop in enumerate(stops) if stop > 0][::-1]
    slots: list[tuple[int, int]] = []
    forwards = []
    while waiting or slots:
        while waiting and len(slots) < width:
            slots.append((waiting.pop(), 0))
        rows, states = zip(*slots, strict=True)
        forwards.append(Forward(rows, states))
        slots = _refilled([(row, state + 1) for row, state in slots], stops, waiting)
    return forwards


def _refilled(
    slots: list[tuple[int, int]], stops: Sequence[int], waiting: list[int]
) -> list[tuple[int, int]]:
    """The slots that go on; a stopped sample's own slot goes to the next one that waits, if any does."""
    going_on = []
    for row, state in slots:
        if state < stops[row]:
            going_on.append((row, state))
        elif waiting:
            going_on.append((waiting.pop(), 0))
    return going_on
