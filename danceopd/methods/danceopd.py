"""On-policy generative field distillation (DanceOPD, arXiv 2606.27377).

One update: every sample follows one route, the current student rolls out from noise to one queried state, and
the student's velocity there is matched to that of the route's teacher. Gradient flows through that one
velocity only.
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
        route: int64 [S], position of each sample's teacher.
        query_index: int64 [S], the state to query, in 0 .. N - 1.
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
    samples_per_update: int | None = None,
) -> UpdateResult:
    """Add the gradient of one update's mean loss to the student's parameters; stepping is left to the caller.

    Args:
        student: the field that learns; it is both rolled out and matched.
        teachers: the frozen fields that `batch.route` counts.
        batch: S samples, their routes mixed in any way.
        grid: N + 1 noise levels of the rollout.
        micro_batch_size: samples per forward and backward of the student at most, None for all; it changes
            memory and not the gradient.
        rollout_batch_size: samples per forward of the rollout at most, None for all.
        samples_per_update: what the mean loss is a mean over, where `batch` is only a part of the update.
    """
    if int(batch.query_index.max()) >= grid.num_steps:
        raise ValueError(
            f"query_index must lie in 0 .. {grid.num_steps - 1}, but got {int(batch.query_index.max())}; "
            "the clean state has no velocity to match."
        )
    if micro_batch_size is not None and micro_batch_size < 1:
        raise ValueError(f"micro_batch_size must be at least 1, but got {micro_batch_size}; None means all.")
    states = rollout(
        student, batch.noise, grid, batch.condition, stop=batch.query_index, batch_size=rollout_batch_size
    )
    loss = torch.empty_like(states.sigma)
    # In the order of their routes: a micro batch then meets as few teachers as can be.
    order = torch.argsort(batch.route, stable=True).cpu()
    for rows in order.split(micro_batch_size or len(order)):
        share = len(rows) / (samples_per_update or len(order))
        loss[rows] = match(student, teachers, batch, states, rows, share)
    return UpdateResult(loss, states.sigma, states.forwards)


def match(
    student: VelocityField,
    teachers: Sequence[VelocityField],
    batch: Batch,
    states: Rollout,
    rows: Tensor,
    share: float,
) -> Tensor:
    """Backward of `share` times the mean over `rows` of ``mean (v_student(x_i) - v_m(x_i))^2``.

    Teachers are asked on the student's own micro batch and not on a larger one, free of the rounding of
    another batch size. So a student that is its teacher has a loss of exactly 0 and stays as it is, on two
    conditions: the micro batch holds that teacher alone, and both have the same weights in the same form. A
    LoRA beside its weights and the same LoRA merged into them round differently; their loss is only near 0.

    Args:
        student: the field that learns.
        teachers: the frozen fields that `batch.route` counts.
        batch: the S samples of the update.
        states: their queried states x_i.
        rows: int64 [R] on the CPU, the samples to match now.
        share: of these rows among all samples of the update.

    Returns:
        fp32 [R], each row's own loss.
    """
    sample, sigma, condition = states.sample[rows], states.sigma[rows], batch.condition.take(rows)
    with torch.no_grad():
        target = routed_velocity(teachers, batch.route[rows], sample, sigma, condition)
    velocity = student(sample, sigma, condition)
    loss, gradient = ops.velocity_mse_with_grad(velocity, target, grad_scale=share)
    velocity.backward(gradient)
    return loss
