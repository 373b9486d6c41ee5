"""In which dtype the ops compute, and how a coefficient meets a tensor there."""

from __future__ import annotations

import torch

from danceopd.ops import _checks


def compute_dtype(tensor: torch.Tensor) -> torch.dtype:
    """The dtype the maths is done in: float64 for float64, else float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def per_sample(each: _checks.Each, ref: torch.Tensor) -> float | torch.Tensor:
    """A coefficient as a float, or as a float64 tensor [B, 1, ...] that broadcasts over the samples."""
    number, tensor = each
    if tensor is None:
        return number
    double = torch.float32 if ref.device.type == "mps" else torch.float64  # Apple's GPUs have no float64
    return tensor.to(double).reshape(-1, *(1,) * (ref.ndim - 1))


def times(coefficient: float | torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """Coefficient * tensor; rounded once, to the tensor's dtype, as a float64 factor would promote it."""
    return (coefficient.to(tensor.dtype) if isinstance(coefficient, torch.Tensor) else coefficient) * tensor
