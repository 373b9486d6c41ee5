"""Weight merges: the baseline that averages experts instead of distilling them, and starts for a student."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from danceopd.flow import route_probabilities


def merge_weights(
    states: Sequence[Mapping[str, Tensor]], weights: Sequence[float] | None = None
) -> dict[str, Tensor]:
    """The weighted mean of several state dicts of one architecture.

    Give full weights or weight deltas. The mean of LoRA factors A and B is another thing: it is not the mean
    of the products B A, so turn adapters into deltas first.

    Args:
        states: at least one; same keys, shapes and dtypes.
        weights: one number >= 0 per state, divided by their sum; None means equal. Averaged in fp32 at least
            and rounded once; integer tensors must be equal and are kept.
    """
    if not states:
        raise ValueError("states must hold at least one state dict, but got none; pass the experts' weights.")
    shares = route_probabilities([1.0] * len(states) if weights is None else weights)
    if len(shares) != len(states):
        raise ValueError(
            f"weights must hold one number per state, but got {len(shares)} for {len(states)}; match them."
        )
    first = states[0]
    for position, state in enumerate(states):
        _check_same(first, state, position)
    return {name: _mean([state[name] for state in states], shares, name) for name in first}


def add_differences(
    base: Mapping[str, Tensor], states: Sequence[Mapping[str, Tensor]], factors: Sequence[float]
) -> dict[str, Tensor]:
    """``base + sum_k factor_k * (state_k - base)``: task arithmetic (arXiv 2212.04089), to start from.

    Args:
        base: what the states were tuned from.
        states: same keys, shapes and dtypes as `base`.
        factors: one finite number per state; 0 leaves a state out. Summed in fp32 at least and rounded once;
            integer tensors are those of `base`.
    """
    if len(factors) != len(states):
        raise ValueError(
            f"factors must hold one number per state, but got {len(factors)} for {len(states)}; match them."
        )
    if not all(math.isfinite(factor) for factor in factors):
        raise ValueError(f"factors must be finite, but got {list(factors)}; replace the bad entry.")
    for position, state in enumerate(states):
        _check_same(base, state, position)
    merged: dict[str, Tensor] = {}
    for name, tensor in base.items():
        total = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
        if tensor.is_floating_point():
            for state, factor in zip(states, factors, strict=True):
                total = total + factor * (state[name].to(total.dtype) - tensor.to(total.dtype))
        merged[name] = total.to(tensor.dtype)
    return merged


def _mean(tensors: Sequence[Tensor], shares: Sequence[float], name: str) -> Tensor:
    first = tensors[0]
    if not first.is_floating_point():
        if not all(torch.equal(first, tensor) for tensor in tensors):
            raise ValueError(
                f"states must agree on the integers of {name!r}, but they differ; leave out what has no mean."
            )
        return first.clone()
    wide = torch.promote_types(first.dtype, torch.float32)
    total = torch.zeros_like(first, dtype=wide)
    for tensor, share in zip(tensors, shares, strict=True):
        total.add_(tensor.to(wide), alpha=share)
    return total.to(first.dtype)


def _check_same(first: Mapping[str, Tensor], state: Mapping[str, Tensor], position: int) -> None:
    different = sorted(first.keys() ^ state.keys()) or [
        name
        for name, tensor in first.items()
        if tensor.shape != state[name].shape or tensor.dtype != state[name].dtype
    ]
    if different:
        raise ValueError(
            f"states must have the same keys, shapes and dtypes, but states[{position}] differs from "
            f"states[0] at {different[0]!r}; merge models of one architecture."
        )
