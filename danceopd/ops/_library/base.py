"""What every registration shares: the library, its kernels' way to the extension, the fake result."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from danceopd.ops import _native
from danceopd.ops._arithmetic import compute_dtype

LIBRARY = torch.library.Library("danceopd", "DEF")

Tensor = torch.Tensor
Pick = float | Tensor


def pick(number: float, each: Tensor | None) -> Pick:
    """A coefficient as the kernels take it."""
    return number if each is None else each.contiguous()


def register(schema: str, kernel: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Define an op, its kernel for CPU and CUDA, and its fake result."""
    name = schema.split("(")[0]
    LIBRARY.define(schema, tags=(torch.Tag.needs_fixed_stride_order, torch.Tag.pt2_compliant_tag))
    for key in ("CPU", "CUDA"):
        LIBRARY.impl(name, kernel, key)
    torch.library.register_fake(f"danceopd::{name}", fake, lib=LIBRARY)


@cache
def _warn_once(device: torch.device) -> None:
    problem = _native.build_info()["cuda_problem"] or "its compute capability is below 7.5"
    warnings.warn(f"danceopd's kernels do not run on {device} ({problem}); plain torch does.", stacklevel=3)


def run(call: Callable[..., Any], twin: Callable[[], Any], first: Tensor, *args: object) -> Any:
    """The native kernel; the twin for CUDA tensors without one (float64, or a device it cannot run on)."""
    result = call(True, *args)
    if result is not None:
        return result
    if first.device.type == "cuda":
        served = _native.serves(first.device)
        if not served:
            _warn_once(first.device)
        if not served or first.dtype == torch.float64:
            return twin()
    raise TypeError(
        "The operands of a danceopd op must be plain, non-empty tensors of equal shape on one device."
    )


def like(tensor: Tensor) -> Tensor:
    """The result of an op, without its values: always contiguous."""
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


def grad_of(coefficient: Pick, grad: Tensor, dtype: torch.dtype) -> Tensor:
    """Coefficient * grad in the dtype of the maths, rounded to the input's dtype."""
    if isinstance(coefficient, float) and coefficient == 1.0:
        return grad.to(dtype)
    wide = grad.to(compute_dtype(grad))
    factor = coefficient.to(wide.dtype) if isinstance(coefficient, Tensor) else coefficient
    return (factor * wide).to(dtype)
