"""The batches of an update, made from its plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from danceopd.families import Family, Prepared
from danceopd.flow import Condition, SigmaGrid, draw_noise, upload
from danceopd.methods import Batch, UpdateResult
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
    *,
    needs_targets: bool = False,
    unedited_weight: float | None = None,
) -> Iterator[PlannedBatch]:
    """One batch per shape of latent, made when it is asked for.

    Args:
        slots: the planned samples of an update.
        family: its grids and its device.
        data: encoded rows of each route.
        teacher_of_route: position of each route's teacher; routes that share one are evaluated together.
        num_steps: N of the rollout.
        needs_targets: whether to read what should come out of each row.
        unedited_weight: in the loss, of what lies outside a row's mask; None reads no masks.
    """
    of_shape: dict[tuple[int, ...], list[int]] = {}
    for position, slot in enumerate(slots):
        of_shape.setdefault(data[slot.route].shape(slot.row), []).append(position)
    for shape, positions in of_shape.items():
        alike = [slots[position] for position in positions]
        mask = None
        if unedited_weight is not None:
            mask = unedited_weight + (1.0 - unedited_weight) * _read(alike, [rows.mask for rows in data])
        batch = Batch(
            noise=upload(draw_noise([slot.noise_seed for slot in alike], shape), family.device),
            condition=_condition(alike, data),
            route=torch.tensor([teacher_of_route[slot.route] for slot in alike]),
            states=torch.tensor([slot.states for slot in alike]),
            seed=torch.tensor([slot.noise_seed for slot in alike]),
            offset=torch.tensor([slot.offset for slot in alike]),
            clean=_read(alike, [rows.target for rows in data]) if needs_targets else None,
            mask=mask,
        )
        yield PlannedBatch(positions, batch, family.grid(num_steps, shape))


def in_order_of_slots(results: Sequence[tuple[Sequence[int], UpdateResult]]) -> UpdateResult:
    """What the batches of an update saw, on the CPU and in the order of their slots.

    Args:
        results: of each batch, with its positions in the update. They are read here, at the end, so that no
            batch waits for the one before it.
    """
    order = torch.argsort(torch.tensor([slot for slots, _ in results for slot in slots]))
    rows = [torch.cat([seen.loss[:, None], seen.error, seen.sigma], dim=1) for _, seen in results]
    every = torch.cat(rows).cpu()[order]
    states = (every.shape[1] - 1) // 2
    loss, error, sigma = every.split([1, states, states], dim=1)
    return UpdateResult(loss[:, 0], error, sigma, sum(seen.forwards for _, seen in results))


def _read(slots: Sequence[SlotPlan], read: Sequence[Callable[[Sequence[int]], Tensor]]) -> Tensor:
    """What ``read[route]`` gives for the rows of each route, in the order of the slots."""
    order = sorted(range(len(slots)), key=lambda position: slots[position].route)
    parts = [
        read[route]([slots[position].row for position in order if slots[position].route == route])
        for route in sorted({slot.route for slot in slots})
    ]
    values = torch.cat(parts)
    return values[upload(torch.argsort(torch.tensor(order)), values.device)]


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
