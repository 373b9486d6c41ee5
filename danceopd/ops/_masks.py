"""How a broadcast mask is read without expanding it."""

from __future__ import annotations

from math import prod

import torch


def lay_out(mask: torch.Tensor | None, student: torch.Tensor) -> tuple[torch.Tensor | None, int, int, int]:
    """Return (mask, batch_stride, inner, period) such that element i of sample b is under
    mask[b * batch_stride + (i // inner) % period].

    That form covers masks whose own dimensions are neighbours: [B, 1, H, W] and [H, W] over channels, [B, L,
    1] over features, [B, 1, 1]. Others, such as [B, C, 1, W], are expanded first.
    """
    if mask is None:
        return None, 0, 1, 1
    sizes, own = student.shape[1:], mask.shape[1:]
    kept = [d for d, size in enumerate(sizes) if size != 1 and own[d] == size]
    if kept and any(sizes[d] != 1 and d not in kept for d in range(kept[0], kept[-1])):
        mask = mask.expand(mask.shape[0], *sizes)
        kept = list(range(len(sizes)))
    mask = mask.contiguous()
    period = prod(sizes[kept[0] : kept[-1] + 1]) if kept else 1
    inner = prod(sizes[kept[-1] + 1 :]) if kept else 1
    return mask, period if mask.shape[0] > 1 else 0, inner, period
