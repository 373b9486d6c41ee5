"""The tensors that every contender works on, and the numbers of the step that is timed."""

from __future__ import annotations

from typing import NamedTuple

import torch

Tensor = torch.Tensor

BATCH = 4
SIGMA_PREVIOUS, SIGMA, SIGMA_NEXT = 0.9, 0.8, 0.7
SCALE, WEIGHTS = 4.5, (0.2, 0.3, 0.5)


class Operands(NamedTuple):
    """Tensors of one size and dtype, [B, n]; `out`, `spare` and `third` are what tuned code writes into."""

    x: Tensor  # sample, student, clean data, log-probabilities
    v: Tensor  # velocity, teacher, noise, old log-probabilities
    u: Tensor  # velocity without the condition, of the step before or of the next; noise; advantages
    out: Tensor
    spare: Tensor
    third: Tensor
    index: Tensor  # of the fields (x, v, u), [B]
    choice: tuple[int, ...]  # the same on the host


def make_operands(count: int, size: int, dtype: torch.dtype, device: torch.device) -> list[Operands]:
    """`count` sets of operands of `size` bytes each; the sets lie behind each other in memory."""
    elements = max(1, size // dtype.itemsize)
    batch = min(BATCH, elements)
    shape = (count, batch, max(1, elements // batch))
    generator = torch.Generator(device).manual_seed(0)
    values = [torch.randn(shape, generator=generator, device=device, dtype=dtype) for _ in range(3)]
    results = [torch.empty(shape, device=device, dtype=dtype) for _ in range(3)]
    choice = tuple(row % len(values) for row in range(batch))
    index = torch.tensor(choice, device=device)
    return [Operands(*(t[i] for t in values + results), index, choice) for i in range(count)]
