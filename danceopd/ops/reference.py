"""The ops in plain torch: the readable definition, and what serves subclasses and devices without kernels.

Same names, arguments and errors as `danceopd.ops`. Computed in float32 (float64 for float64), differentiable
by torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from danceopd.ops import _checks

__all__ = ["add_noise", "blend", "euler_step", "guide", "route", "velocity_mse", "velocity_mse_with_grad"]


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


def _times(coefficient: float | torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    # The coefficient is rounded once, to the dtype of the maths; a float64 factor would promote the tensor.
    return (coefficient.to(tensor.dtype) if isinstance(coefficient, torch.Tensor) else coefficient) * tensor


def _guided(uncond: torch.Tensor, cond: torch.Tensor, scale: float | torch.Tensor) -> torch.Tensor:
    return uncond + _times(scale, cond - uncond)


def guide(uncond: torch.Tensor, cond: torch.Tensor, scale: _checks.Number) -> torch.Tensor:
    """See `danceopd.ops.guide`."""
    _checks.first("uncond", uncond)
    _checks.like("cond", cond, "uncond", uncond, same_dtype=True)
    s = per_sample(_checks.finite("scale", scale, uncond), uncond)
    dtype = compute_dtype(uncond)
    return _guided(uncond.to(dtype), cond.to(dtype), s).to(uncond.dtype)


def euler_step(
    sample: torch.Tensor,
    velocity: torch.Tensor,
    sigma: _checks.Number,
    sigma_next: _checks.Number,
    *,
    uncond: torch.Tensor | None = None,
    guidance_scale: _checks.Number = 1.0,
) -> torch.Tensor:
    """See `danceopd.ops.euler_step`."""
    _checks.first("sample", sample)
    _checks.like("velocity", velocity, "sample", sample)
    now, then = _checks.sigma("sigma", sigma, sample), _checks.sigma("sigma_next", sigma_next, sample)
    _checks.descending(sigma, sigma_next)
    scale = per_sample(_checks.finite("guidance_scale", guidance_scale, sample), sample)
    dtype = compute_dtype(sample)
    v = velocity.to(dtype)
    if uncond is not None:
        _checks.like("uncond", uncond, "sample", sample)
        v = _guided(uncond.to(dtype), v, scale)
    return (sample.to(dtype) + _times(per_sample(then, sample) - per_sample(now, sample), v)).to(sample.dtype)


def add_noise(clean: torch.Tensor, noise: torch.Tensor, sigma: _checks.Number) -> torch.Tensor:
    """See `danceopd.ops.add_noise`."""
    _checks.first("clean", clean)
    _checks.like("noise", noise, "clean", clean)
    s = per_sample(_checks.sigma("sigma", sigma, clean), clean)
    dtype = compute_dtype(clean)
    return (_times(1.0 - s, clean.to(dtype)) + _times(s, noise.to(dtype))).to(clean.dtype)


def blend(fields: Sequence[torch.Tensor], weights: torch.Tensor | Sequence[float]) -> torch.Tensor:
    """See `danceopd.ops.blend`."""
    fields = _checks.fields(fields)
    checked = _checks.weights(weights, fields)
    dtype, total = compute_dtype(fields[0]), None
    for k, field in enumerate(fields):
        weight: float | torch.Tensor
        if isinstance(checked, torch.Tensor):
            weight = checked[..., k].reshape(-1, *(1,) * (field.ndim - 1))
        else:
            weight = checked[k]
        term = _times(weight, field.to(dtype))
        total = term if total is None else total + term
    assert total is not None  # fields is not empty
    return total.to(fields[0].dtype)


def route(fields: Sequence[torch.Tensor], index: torch.Tensor) -> torch.Tensor:
    """See `danceopd.ops.route`."""
    fields = _checks.fields(fields)
    index = _checks.index(index, fields).reshape(-1, *(1,) * (fields[0].ndim - 1))
    out = torch.full_like(fields[0], float("nan"))
    for k, field in enumerate(fields):
        out = torch.where(index == k, field, out)
    return out


def _weighted_errors(
    student: torch.Tensor,
    teacher: torch.Tensor,
    uncond: torch.Tensor | None,
    guidance_scale: _checks.Number,
    weight: _checks.Number | None,
    mask: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(weight * mask * error, error), the factors of the loss, in the dtype of the maths."""
    _checks.first("student", student)
    _checks.like("teacher", teacher, "student", student)
    _checks.constant("teacher", teacher)
    scale = per_sample(_checks.finite("guidance_scale", guidance_scale, student), student)
    dtype = compute_dtype(student)
    target = teacher.to(dtype)
    if uncond is not None:
        _checks.like("uncond", uncond, "student", student)
        _checks.constant("uncond", uncond)
        target = _guided(uncond.to(dtype), target, scale)
    error = student.to(dtype) - target
    weighted = error
    checked_mask = _checks.mask(mask, student)
    if checked_mask is not None:
        weighted = checked_mask.to(dtype) * weighted
    if weight is not None:
        weighted = _times(per_sample(_checks.finite("weight", weight, student), student), weighted)
    return weighted, error


def velocity_mse(
    student: torch.Tensor,
    teacher: torch.Tensor,
    *,
    uncond: torch.Tensor | None = None,
    guidance_scale: _checks.Number = 1.0,
    weight: _checks.Number | None = None,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """See `danceopd.ops.velocity_mse`."""
    weighted, error = _weighted_errors(student, teacher, uncond, guidance_scale, weight, mask)
    return (weighted * error).reshape(student.shape[0], -1).mean(1).mean()


@torch.no_grad()
def velocity_mse_with_grad(
    student: torch.Tensor,
    teacher: torch.Tensor,
    *,
    uncond: torch.Tensor | None = None,
    guidance_scale: _checks.Number = 1.0,
    weight: _checks.Number | None = None,
    mask: torch.Tensor | None = None,
    grad_scale: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `danceopd.ops.velocity_mse_with_grad`."""
    weighted, error = _weighted_errors(student, teacher, uncond, guidance_scale, weight, mask)
    slope = 2.0 * _checks.finite("grad_scale", grad_scale, student)[0] / student.numel()
    return (weighted * error).reshape(student.shape[0], -1).mean(1), (slope * weighted).to(student.dtype)
