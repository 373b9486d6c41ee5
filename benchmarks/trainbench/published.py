"""The recipe of today's public trainers, as plainly as it can be said; what the ladder starts from.

One sample at a time: its prompt is encoded (and the empty one again, where guidance needs it), the whole
rollout runs although one of its states is used, guidance is two forwards one after the other, and each
teacher is a full copy of the model. Nothing here is slower than it has to be: models are in evaluation mode,
no gradient is recorded where none is needed, and states stay where they are computed.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from danceopd.flow import VelocityField
from trainbench.worlds import Fields, Work, World


def published_update(
    world: World, fields: Fields, work: Work, student_guidance: float
) -> tuple[Tensor, Tensor]:
    """Add the gradient of one update's mean loss to the student; loss [S] and queried states [S, ...]."""
    losses, states = [], []
    for row, route, state, noise in zip(work.rows, work.routes, work.states, work.noise, strict=True):
        teacher, scale = fields.teachers[route], world.guidance[route]
        condition = world.encode(row, with_empty=scale != 1.0 or student_guidance != 1.0)
        with torch.no_grad():
            sample = noise[None]
            for step, (here, there) in enumerate(pairwise(world.grid.values)):
                if step == state:
                    queried = sample
                velocity = guided(fields.student, sample, world.level(here), condition, student_guidance)
                sample = sample + (there - here) * velocity
            sigma = world.level(world.grid.values[state])
            target = guided(teacher, queried, sigma, condition, scale)
        velocity = guided(fields.student, queried, sigma, condition, student_guidance)
        loss = (velocity.float() - target.float()).square().mean()
        (loss / len(work.rows)).backward()
        losses.append(loss.detach())
        states.append(queried[0])
    return torch.stack(losses), torch.stack(states)


def guided(field: VelocityField, sample: Tensor, sigma: Tensor, condition: object, scale: float) -> Tensor:
    """Classifier-free guidance in two forwards; one where the scale is 1."""
    velocity = field(sample, sigma, condition)
    if scale == 1.0:
        return velocity
    empty = field(sample, sigma, condition.unconditional())  # type: ignore[attr-defined]
    return empty.float() + scale * (velocity.float() - empty.float())
