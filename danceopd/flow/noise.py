"""Starting noise, one seed per sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def draw_noise(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Standard normal noise, fp32 [B, *shape] on the CPU, where sample b depends on ``seeds[b]`` alone.

    Drawn on the CPU whatever the model runs on, so that a sample starts from the same noise on every device,
    in every batch and on every rank.

    Args:
        seeds: B integers in [0, 2**63).
        shape: one sample's shape, without the batch.
    """
    noise = torch.empty(len(seeds), *shape)
    for sample, seed in zip(noise, seeds, strict=True):
        sample.normal_(generator=torch.Generator().manual_seed(seed))
    return noise
