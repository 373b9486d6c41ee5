"""Rollouts whose steps are drawn: the stochastic flow that policy-gradient methods need."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from danceopd import ops
from danceopd.flow.conditions import Condition
from danceopd.flow.fields import VelocityField, velocity_of
from danceopd.flow.sigmas import SigmaGrid
from danceopd.flow.transfer import upload

_STREAM: Final = 0x736465  # "sde": keeps these numbers apart from other uses of the same seed


class Trajectory(NamedTuple):
    """A stochastic rollout.

    Attributes:
        sample: fp32 [B, N + 1, ...], every state from the noise on, as it was really used.
        log_prob: fp32 [B, N], of each step under the field that took it.
    """

    sample: Tensor
    log_prob: Tensor


@torch.no_grad()
def stochastic_rollout(
    field: VelocityField,
    noise: Tensor,
    grid: SigmaGrid,
    condition: Condition,
    seed: Tensor,
    *,
    noise_level: float,
    batch_size: int | None = None,
) -> Trajectory:
    """All N steps of `danceopd.ops.sde_step` from `noise`; no gradient is recorded.

    A sample's path follows from its own seed and noise, in every batch and on every device.

    Args:
        field: the field to follow.
        noise: [B, ...], state 0.
        grid: N + 1 noise levels.
        condition: B samples.
        seed: int64 [B], of the noise that the steps add.
        noise_level: eta, above 0.
        batch_size: samples per evaluation at most; None means all.
    """
    count = noise.shape[0]
    seeds = upload(step_seeds(seed, grid.num_steps), noise.device)
    sample = torch.empty(count, grid.num_steps + 1, *noise.shape[1:], device=noise.device)
    log_prob = torch.empty(count, grid.num_steps, device=noise.device)
    sample[:, 0] = noise
    levels = grid.tensor(noise.device)
    for rows in torch.arange(count).split(batch_size or count):
        first, last = int(rows[0]), int(rows[-1]) + 1
        taken, now = condition.take(rows), sample[first:last, 0].contiguous()
        for state in range(grid.num_steps):
            # As fp32, in which the same steps are asked for again when they are learned from.
            here, there = (level.expand(len(rows)) for level in levels[state : state + 2])
            step = ops.sde_step(
                now,
                velocity_of(field, "the field of the rollout", now, here, taken),
                here,
                there,
                noise_level=noise_level,
                seed=seeds[first:last, state].contiguous(),
            )
            now = sample[first:last, state + 1] = step.sample
            log_prob[first:last, state] = step.log_prob
    return Trajectory(sample, log_prob)


def step_seeds(seed: Tensor, num_steps: int) -> Tensor:
    """A seed for each step of each sample, int64 [B, num_steps] in [0, 2**63) on the CPU."""
    streams = [
        np.random.Philox(key=np.array([value, _STREAM], dtype=np.uint64)).random_raw(num_steps)
        >> np.uint64(1)
        for value in seed.tolist()
    ]
    return torch.from_numpy(np.stack(streams).astype(np.int64))
