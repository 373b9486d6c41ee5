"""From noise down to the state that is asked for."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from danceopd import ops
from danceopd.flow.conditions import Condition
from danceopd.flow.fields import GuidedField, VelocityField
from danceopd.flow.sigmas import SigmaGrid


class Rollout(NamedTuple):
    """States that a rollout ended in.

    Attributes:
        sample: fp32 [B, ...].
        sigma: fp32 [B], the noise level of each.
        forwards: evaluations of the field, counted in samples; the sum of `stop`.
    """

    sample: Tensor
    sigma: Tensor
    forwards: int


@torch.no_grad()
def rollout(
    field: VelocityField,
    noise: Tensor,
    grid: SigmaGrid,
    condition: Condition,
    *,
    stop: Tensor | None = None,
    batch_size: int | None = None,
) -> Rollout:
    """Euler steps from `noise` along `grid`, each sample until its own state; no gradient is recorded.

    From the second step on samples move in place: a field that keeps what it was called with keeps a copy.
    The sample stays in fp32 whatever the field's dtype. Samples retire as they reach their state, so a batch
    costs ``stop.sum()`` evaluations instead of ``B * N``. A single sample stops on exactly the bits that the
    full rollout passes through; in a batch the two agree to the rounding of the field in smaller batches.

    Args:
        field: the field to follow; a `GuidedField`'s guidance is folded into the step.
        noise: [B, ...], state 0.
        grid: N + 1 noise levels.
        condition: B samples.
        stop: int64 [B], the state of each sample in 0 .. N, 0 being the noise itself; None means N.
        batch_size: samples per evaluation at most; None means all. Samples with similar stops run together.
    """
    batch = noise.shape[0]
    stop = torch.full((batch,), grid.num_steps) if stop is None else stop.cpu()
    _check(noise, grid, condition, stop, batch_size)

    # Latest stop first: the samples that still move are then a prefix at every step, and no step gathers.
    order = torch.argsort(stop, descending=True, stable=True)
    start = noise.float()
    states = [
        _descend(field, start[rows], grid, condition.take(rows), stop[rows])
        for rows in order.split(batch_size or batch)
    ]
    sigma = grid.tensor()[stop].to(noise.device)
    return Rollout(torch.cat(states)[torch.argsort(order)], sigma, forwards=int(stop.sum()))


def _descend(
    field: VelocityField, sample: Tensor, grid: SigmaGrid, condition: Condition, stop: Tensor
) -> Tensor:
    """Samples at their stops; `stop` (on the CPU) falls from first to last."""
    sigmas = grid.tensor(sample.device)
    retired: list[Tensor] = []
    own: Tensor | None = None  # the memory that the moving samples are stepped in: of the first step's result
    for i in range(int(stop[0])):
        moving = int((stop > i).sum())
        if moving < sample.shape[0]:
            retired.append(sample[moving:])
            sample, condition = sample[:moving], condition.take(torch.arange(moving))
            own = None if own is None else sample
        here, there = grid.values[i], grid.values[i + 1]
        sample = own = _step(field, sample, sigmas[i].expand(moving), condition, here, there, own)
    return torch.cat([sample, *reversed(retired)])


def _step(
    field: VelocityField,
    sample: Tensor,
    sigma: Tensor,
    condition: Condition,
    here: float,
    there: float,
    out: Tensor | None,
) -> Tensor:
    if isinstance(field, GuidedField) and field.is_linear:
        velocity, uncond = field.branches(sample, sigma, condition)
        return ops.euler_step(
            sample, velocity, here, there, uncond=uncond, guidance_scale=field.scale, out=out
        )
    return ops.euler_step(sample, field(sample, sigma, condition), here, there, out=out)


def _check(
    noise: Tensor, grid: SigmaGrid, condition: Condition, stop: Tensor, batch_size: int | None
) -> None:
    batch = noise.shape[0]
    if batch == 0 or len(condition) != batch:
        raise ValueError(
            f"condition must hold one entry per sample, but got {len(condition)} for {batch} samples; "
            "pass the same number (at least one) of both."
        )
    if stop.shape != (batch,) or stop.dtype != torch.int64:
        raise ValueError(
            f"stop must be int64 of shape [{batch}], but got {stop.dtype} of shape {list(stop.shape)}; "
            "give one state per sample."
        )
    if int(stop.min()) < 0 or int(stop.max()) > grid.num_steps:
        raise ValueError(
            f"stop must lie in 0 .. {grid.num_steps}, but got {stop.tolist()}; state 0 is the noise."
        )
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, but got {batch_size}; None means all samples.")
