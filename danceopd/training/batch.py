"""The batches of an update, made from its plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from danceopd.families import Family, Prepared
from danceopd.flow import Condition, SigmaGrid, draw_noise
from danceopd.methods import Batch
from danceopd.training.plan import SlotPlan


class PlannedBatch(NamedTuple):
    """The slots of an update whose latents have one shape.

    Attributes:
        slots: positions in the update, rising.
        batch: their noise, conditions, teachers and queried states, on the family's device.
        grid: the noise levels of latents of this shape.
    """

    slots: list[int]
    batch: Batch
    grid: SigmaGrid


def build_batches(
    slots: Sequence[SlotPlan],
    family: Family,
    data: Sequence[Prepared],
    teacher_of_route: Sequence[int],
    num_steps: int,
) -> Iterator[PlannedBatch]:
    """One batch per shape of latent, made when it is asked for.

    Args:
        slots: the planned samples of an update.
        family: its grids and its device.
        data: encoded rows of each route.
        teacher_of_route: position of each route's teacher; routes that share one are evaluated together.
        num_steps: N of the rollout.
    """
    of_shape: dict[tuple[int, ...], list[int]] = {}
    for position, slot in enumerate(slots):
        of_shape.setdefault(data[slot.route].shape(slot.row), []).append(position)
    for shape, positions in of_shape.items():
        alike = [slots[position] for position in positions]
        batch = Batch(
            noise=draw_noise([slot.noise_seed for slot in alike], shape).to(family.device),
            condition=_condition(alike, data),
            route=torch.tensor([teacher_of_route[slot.route] for slot in alike]),
            query_index=torch.tensor([slot.query_index for slot in alike]),
        )
        yield PlannedBatch(positions, batch, family.grid(num_steps, shape))


def _condition(slots: Sequence[SlotPlan], data: Sequence[Prepared]) -> Condition:
    # Read route by route, then put into the order of the slots.
    order = sorted(range(len(slots)), key=lambda position: slots[position].route)
    condition: Condition | None = None
    for route in sorted({slot.route for slot in slots}):
        part = data[route].condition(
            [slots[position].row for position in order if slots[position].route == route]
        )
        condition = part if condition is None else condition.concat(part)
    assert condition is not None
    condition = condition.take(torch.argsort(torch.tensor(order)))

    dropped = torch.tensor([slot.drop for slot in slots])
    if not dropped.any():
        return condition
    # Row b of the second half is row b without its prompt.
    both = condition.concat(condition.unconditional())
    return both.take(torch.arange(len(slots)) + len(slots) * dropped)
