"""The batch of an update, made from its plan."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from danceopd.families import Examples, Family
from danceopd.flow import Condition, draw_noise
from danceopd.methods import Batch
from danceopd.training.plan import SlotPlan


def build_batch(
    slots: Sequence[SlotPlan], family: Family, data: Sequence[Examples], teacher_of_route: Sequence[int]
) -> Batch:
    """Noise, conditions, teachers and queried states of ``slots``, on the family's device.

    Args:
        slots: S planned samples.
        family: encodes prompts and sources.
        data: rows of each route.
        teacher_of_route: position of each route's teacher; routes that share one are evaluated together.
    """
    return Batch(
        noise=draw_noise([slot.noise_seed for slot in slots], family.sample_shape).to(family.device),
        condition=_condition(slots, family, data),
        route=torch.tensor([teacher_of_route[slot.route] for slot in slots]),
        query_index=torch.tensor([slot.query_index for slot in slots]),
    )


def _condition(slots: Sequence[SlotPlan], family: Family, data: Sequence[Examples]) -> Condition:
    condition = family.encode([data[slot.route][slot.row] for slot in slots])
    dropped = torch.tensor([slot.drop for slot in slots])
    if not dropped.any():
        return condition
    # Row b of the second half is row b without its prompt.
    both = condition.concat(condition.unconditional())
    return both.take(torch.arange(len(slots)) + len(slots) * dropped)
