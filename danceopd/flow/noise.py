"""Starting noise, one seed per sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

_STREAM: Final = 0x6E6F697365  # "noise": keeps these numbers apart from other uses of the same seed


def draw_noise(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Standard normal noise, fp32 [B, *shape] on the CPU, where sample b depends on ``seeds[b]`` alone.

    Drawn on the CPU whatever the model runs on: a sample then starts from the same noise on every device, in
    every batch and on every rank.

    Args:
        seeds: B integers in [0, 2**64).
        shape: one sample's shape, without the batch.
    """
    noise = np.empty((len(seeds), *shape), dtype=np.float32)
    for b, seed in enumerate(seeds):
        bits = np.random.Philox(key=np.array([seed, _STREAM], dtype=np.uint64))
        np.random.Generator(bits).standard_normal(dtype=np.float32, out=noise[b : b + 1])
    return torch.from_numpy(noise)
