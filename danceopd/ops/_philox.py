"""The kernels' noise in plain torch: Philox 4x32-10 (Salmon et al., 2011) and Box-Muller; see csrc/core/philox.h.

The words are the same; the normals are computed in float64 and agree with the kernels' to float32 rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

_LOW = 0xFFFFFFFF


def _product(a: torch.Tensor, factor: int) -> tuple[torch.Tensor, torch.Tensor]:
    """High and low word of a product; int64 holds no product of 64 bits, hence the halves."""
    upper = factor * (a >> 16) + ((factor * (a & 0xFFFF)) >> 16)
    return upper >> 16, (a * factor) & _LOW


def philox(counter: torch.Tensor, seed: int | torch.Tensor) -> list[torch.Tensor]:
    """Four words (int64 tensors in [0, 2^32)) for each counter; `seed` broadcasts with the counters."""
    x = [counter & _LOW, (counter >> 32) & _LOW, torch.zeros_like(counter), torch.zeros_like(counter)]
    low, high = seed & _LOW, (seed >> 32) & _LOW
    for _ in range(10):
        (a_high, a_low), (b_high, b_low) = _product(x[0], 0xD2511F53), _product(x[2], 0xCD9E8D57)
        x = [b_high ^ x[1] ^ low, b_low, a_high ^ x[3] ^ high, a_low]
        low, high = (low + 0x9E3779B9) & _LOW, (high + 0xBB67AE85) & _LOW
    return x


def _box_muller(radius: torch.Tensor, turn: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    uniform = ((radius >> 1).float().double() * 2.0**-31 + 2.0**-32).float().double()
    r, angle = (-2.0 * uniform.log()).sqrt(), turn.double() * (2.0 * math.pi * 2.0**-32)
    return r * angle.cos(), r * angle.sin()


def normals(shape: Sequence[int], seed: int | torch.Tensor, device: torch.device) -> torch.Tensor:
    """Standard normals in float32: element i of the stream of `seed`, or of sample b's own stream seed[b]."""
    place = torch.device("cpu") if device.type == "mps" else device  # Apple's GPUs have no float64
    each = isinstance(seed, torch.Tensor)
    count = math.prod(shape[1:]) if each else math.prod(shape)
    counter = torch.arange((count + 3) // 4, device=place)
    key = seed.to(place)[:, None] if isinstance(seed, torch.Tensor) else seed
    w = philox(counter.expand(shape[0], -1) if each else counter, key)
    four = torch.stack([*_box_muller(w[0], w[1]), *_box_muller(w[2], w[3])], dim=-1)
    return four.flatten(-2)[..., :count].reshape(tuple(shape)).float().to(device)
