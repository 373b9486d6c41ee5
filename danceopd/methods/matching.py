"""Match the student's velocity to a target's, at states where no gradient flows into the state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from danceopd import ops
from danceopd.flow import Condition, VelocityField, routed_velocity, upload
from danceopd.methods.base import Batch, Limits, Teachers

Target = Callable[[Tensor, Tensor, Tensor, Condition], Tensor]
"""``target(rows, sample, sigma, condition) -> velocity`` of some samples of a batch; `rows` is int64 [R]."""


def match_velocity(
    student: VelocityField,
    target: Target,
    batch: Batch,
    sample: Tensor,
    sigma: Tensor,
    limits: Limits,
    *,
    weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Backward of the mean over samples of ``sum_k w_k mean (v_student(x_k) - v_target(x_k))^2``.

    The target is asked on the student's own micro batch and not on a larger one, free of the rounding of
    another batch size. So a student that is its teacher has a loss of exactly 0 and stays as it is, on two
    conditions: the micro batch holds that teacher alone, and both have the same weights in the same form. A
    LoRA beside its weights and the same LoRA merged into them round differently; their loss is only near 0.

    Args:
        student: the field that learns.
        target: what it is matched to.
        batch: the S samples of the update.
        sample: [S, K, ...], the states x_k.
        sigma: fp32 [S, K], their noise levels.
        limits: how to cut the work.
        weight: fp32 [S, K], w_k; 1 / K when None.

    Returns:
        The loss fp32 [S] of each sample, and the error fp32 [S, K] at each state, masked but without w_k.
    """
    count, per_sample = sigma.shape
    if weight is None and per_sample > 1:
        weight = torch.full_like(sigma, 1.0 / per_sample)
    states, levels = sample.flatten(0, 1), sigma.flatten()
    weights = None if weight is None else upload(weight.flatten(), levels.device)
    loss, error = torch.empty_like(levels), torch.empty_like(levels)
    for places in micro_batches(batch.route.repeat_interleave(per_sample), limits.micro_batch_size):
        rows = places // per_sample
        condition, there = batch.condition.take(rows), upload(places, levels.device)
        x, level = states[there], levels[there]
        with torch.no_grad():
            wanted = target(rows, x, level, condition)
        velocity = student(x, level, condition)
        each, gradient = ops.velocity_mse_with_grad(
            velocity,
            wanted,
            weight=None if weights is None else weights[there],
            mask=None if batch.mask is None else batch.mask[upload(rows, levels.device)],
            grad_scale=len(places) / (limits.samples_per_update or count),
        )
        velocity.backward(gradient)
        loss[there] = each
        error[there] = each if weights is None else each / weights[there]
    return loss.view(count, per_sample).sum(dim=1), error.view(count, per_sample)


def routed(teachers: Teachers, batch: Batch) -> Target:
    """Each sample's own teacher as the target."""
    return partial(_ask, teachers, batch.route)


def micro_batches(route: Tensor, size: int | None) -> Iterator[Tensor]:
    """Positions, int64 on the CPU, in the order of their routes: a micro batch then meets few teachers."""
    if size is not None and size < 1:
        raise ValueError(f"micro_batch_size must be at least 1, but got {size}; None means all.")
    order = torch.argsort(route, stable=True).cpu()
    yield from order.split(size or len(order))


def _ask(
    teachers: Teachers,
    route: Tensor,
    rows: Tensor,
    sample: Tensor,
    sigma: Tensor,
    condition: Condition,
) -> Tensor:
    return routed_velocity(
        list(teachers.values()), route[rows], sample, sigma, condition, names=names_of(teachers)
    )


def names_of(teachers: Teachers) -> list[str]:
    """What messages call the teachers."""
    return [f"teacher '{name}'" for name in teachers]
