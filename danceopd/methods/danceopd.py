"""On-policy generative field distillation (DanceOPD, arXiv 2606.27377).

One update: every sample follows one route, the current student rolls out from noise to one queried state, and
    the
student's velocity there is matched to that of the route's teacher. Gradient flows through that one velocity
only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from danceopd import ops
from danceopd.flow import Condition, Rollout, SigmaGrid, VelocityField, rollout, routed_velocity


class Batch(NamedTuple):
    """What one update works on.

    Attributes:
        noise: [S, ...], where each trajectory starts.
        condition: S samples, each drawn from the data of its own route.
        route: int64 [S] on the CPU, position of the sample's teacher.
        query_index: int64 [S] on the CPU, the state to query, in 0 .. N - 1.
    """

    noise: Tensor
    condition: Condition
    route: Tensor
    query_index: Tensor


class UpdateResult(NamedTuple):
    """What one update saw.

    Attributes:
        loss: fp32 [S], each sample's mean squared velocity error; their mean is the loss of the update.
        sigma: fp32 [S], the noise levels queried.
        forwards: evaluations of the student in the rollout, counted in samples.
    """

    loss: Tensor
    sigma: Tensor
    forwards: int


def update(
    student: VelocityField,
    teachers: Sequence[VelocityField],
    batch: Batch,
    grid: SigmaGrid,
    *,
    micro_batch_size: int | None = None,
    rollout_batch_size: int | None = None,
) -> UpdateResult:
    """Add the gradient of one update's mean loss to the student's parameters; the optimizer step is the
    caller's.

    Args:
        student: the field that learns; it is both rolled out and matched.
        teachers: one frozen field per route.
        batch: S samples; routes may be mixed in any way.
        grid: N + 1 noise levels of the rollout.
        micro_batch_size: samples per forward and backward of the student, None for all; changes memory, not
            gradient.
        rollout_batch_size: samples per forward of the rollout, None for all.
    """
    states = query(student, batch, grid, rollout_batch_size=rollout_batch_size)
    slots = torch.arange(len(batch.route))
    losses = [
        match(student, teachers, batch, states, rows, share=len(rows) / len(slots))
        for rows in slots.split(micro_batch_size or len(slots))
    ]
    return UpdateResult(torch.cat(losses), states.sigma, states.forwards)


def query(
    student: VelocityField, batch: Batch, grid: SigmaGrid, *, rollout_batch_size: int | None = None
) -> Rollout:
    """The queried states x_i of the current student; what lies behind i is never computed."""
    if int(batch.query_index.max()) >= grid.num_steps:
        raise ValueError(
            f"query_index must lie in 0 .. {grid.num_steps - 1}, but got {int(batch.query_index.max())}; "
            "the clean state has no velocity to match."
        )
    return rollout(
        student, batch.noise, grid, batch.condition, stop=batch.query_index, batch_size=rollout_batch_size
    )


def match(
    student: VelocityField,
    teachers: Sequence[VelocityField],
    batch: Batch,
    states: Rollout,
    rows: Tensor,
    *,
    share: float = 1.0,
) -> Tensor:
    """Backward of ``share * mean |v_student(x_i) - v_teacher(x_i)|^2`` over `rows`; returns their losses,
    fp32 [R].

    Args:
        rows: int64 [R] on the CPU, which samples of the batch.
        share: the part of the update's mean that these rows make up.
    """
    on_device = rows.to(states.sample.device)
    sample, sigma, condition = states.sample[on_device], states.sigma[on_device], batch.condition.take(rows)
    with torch.no_grad():
        target = routed_velocity(teachers, batch.route[rows], sample, sigma, condition)
    velocity = student(sample, sigma, condition)
    loss, gradient = ops.velocity_mse_with_grad(velocity.detach(), target)
    velocity.backward(gradient * share)
    return loss
