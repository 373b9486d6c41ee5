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

    The sample stays in fp32 whatever the field's dtype. Samples retire as they reach their state, so a batch
    costs ``stop.sum()`` evaluations instead of ``B * N``. A single sample stops on exactly the bits that the
    full rollout passes through; in a batch the two agree to the rounding of the field under another batch
    size.

    Args:
        field: the field to follow; a `GuidedField`'s guidance is folded into the step.
        noise: [B, ...], state 0.
        grid: N + 1 noise levels.
        condition: B samples.
        stop: int64 [B], the state of each sample in 0 .. N; None goes to the end. State 0 is the noise
            itself.
        batch_size: samples per evaluation at most; None means all. Samples with similar stops run together.
    """
    batch = noise.shape[0]
    stop = torch.full((batch,), grid.num_steps) if stop is None else stop.cpu()
    _check(noise, grid, condition, stop, batch_size)

    # Latest stop first: the samples that still move are then a prefix at every step, and no step has to
    # gather.
    order = torch.argsort(stop, descending=True, stable=True)
    rows = order.to(noise.device)
    sorted_noise = noise.float()[rows]
    chunk = batch_size or batch
    states = [
        _descend(field, chunk_noise, grid, condition.take(chunk_rows), stop[chunk_rows])
        for chunk_noise, chunk_rows in zip(sorted_noise.split(chunk), order.split(chunk), strict=True)
    ]
    sigma = grid.tensor()[stop].to(noise.device)
    return Rollout(torch.cat(states)[torch.argsort(rows)], sigma, forwards=int(stop.sum()))


def _descend(
    field: VelocityField, sample: Tensor, grid: SigmaGrid, condition: Condition, stop: Tensor
) -> Tensor:
    """Samples at their stops; `stop` falls from first to last."""
    sigmas = grid.tensor(sample.device)
    last = int(stop[0])
    # active[i]: how many samples still have to leave state i.
    active = (stop[:, None] > torch.arange(last + 1)).sum(dim=0).tolist()
    retired: list[Tensor] = []
    for i in range(last + 1):
        moving = active[i]
        if moving < sample.shape[0]:
            retired.append(sample[moving:])
            sample, condition = sample[:moving], condition.take(torch.arange(moving))
        if moving:
            sample = _step(
                field, sample, sigmas[i].expand(moving), condition, grid.values[i], grid.values[i + 1]
            )
    return torch.cat(retired[::-1])


def _step(
    field: VelocityField, sample: Tensor, sigma: Tensor, condition: Condition, here: float, there: float
) -> Tensor:
    if isinstance(field, GuidedField):
        velocity, uncond = field.branches(sample, sigma, condition)
        return ops.euler_step(sample, velocity, here, there, uncond=uncond, guidance_scale=field.scale)
    return ops.euler_step(sample, field(sample, sigma, condition), here, there)


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
