"""Moves along the flow: guidance, the Euler step, the interpolant."""

from __future__ import annotations

import torch

from danceopd.ops import _backend, _checks, _library, _native, reference  # noqa: F401  (_library registers the ops)

Number = float | torch.Tensor


def guide(uncond: torch.Tensor, cond: torch.Tensor, scale: Number) -> torch.Tensor:
    """Classifier-free guidance, `uncond + scale * (cond - uncond)`.

    Args:
        uncond: velocity without the condition, [B, ...].
        cond: velocity with it; same shape, dtype and device.
        scale: 1 returns `cond` up to rounding, 0 returns `uncond`; a float, or [B] for one per sample.

    Returns:
        A contiguous tensor of the fields' dtype, computed in float32 (float64 for float64). Differentiable
        with respect to both fields.

    Raises:
        TypeError, ValueError: for arguments that do not fit; the message names the one.
    """
    if _backend.native and not torch.compiler.is_compiling():
        fast: torch.Tensor | None = _native.guide(False, uncond, cond, scale)
        if fast is not None:
            return fast
    if not _backend.takes_native(uncond, cond):
        return reference.guide(uncond, cond, scale)
    _checks.first("uncond", uncond)
    _checks.like("cond", cond, "uncond", uncond, same_dtype=True)
    result: torch.Tensor = torch.ops.danceopd.guide(uncond, cond, *_checks.finite("scale", scale, uncond))
    return result


def euler_step(
    sample: torch.Tensor,
    velocity: torch.Tensor,
    sigma: Number,
    sigma_next: Number,
    *,
    uncond: torch.Tensor | None = None,
    guidance_scale: Number = 1.0,
) -> torch.Tensor:
    """One Euler step of dx/dsigma = v, `sample + (sigma_next - sigma) * v`.

    Args:
        sample: the state, [B, ...]; float32 is best kept across a rollout, also when the model is bf16.
        velocity: v at the state; same shape and device, any dtype but float64 (float64 goes with float64).
        sigma: noise level of the state in [0, 1]; a float, or [B] for one per sample.
        sigma_next: noise level to reach, at most `sigma`; equal levels leave the state as it is. The order is
            checked wherever the host knows the values, not for CUDA tensors.
        uncond: velocity without the condition. When given, v is `guide(uncond, velocity, guidance_scale)`, in
            the same pass.
        guidance_scale: a float or [B]; counts only with `uncond`.

    Returns:
        The next state, contiguous, in the sample's dtype, computed in float32 (float64 for float64).
        Differentiable with respect to sample, velocity and uncond.

    Raises:
        TypeError, ValueError: for arguments that do not fit; the message names the one.
    """
    if _backend.native and not torch.compiler.is_compiling():
        fast: torch.Tensor | None = _native.euler_step(
            False, sample, velocity, sigma, sigma_next, uncond, guidance_scale
        )
        if fast is not None:
            return fast
    if not _backend.takes_native(sample, velocity, uncond):
        return reference.euler_step(
            sample, velocity, sigma, sigma_next, uncond=uncond, guidance_scale=guidance_scale
        )
    _checks.first("sample", sample)
    _checks.like("velocity", velocity, "sample", sample)
    if uncond is not None:
        _checks.like("uncond", uncond, "sample", sample)
    now, then = _checks.sigma("sigma", sigma, sample), _checks.sigma("sigma_next", sigma_next, sample)
    _checks.descending(sigma, sigma_next)
    scale = _checks.finite("guidance_scale", guidance_scale, sample)
    result: torch.Tensor = torch.ops.danceopd.euler_step(sample, velocity, uncond, *now, *then, *scale)
    return result


def add_noise(clean: torch.Tensor, noise: torch.Tensor, sigma: Number) -> torch.Tensor:
    """The interpolant of rectified flow, `(1 - sigma) * clean + sigma * noise`.

    Args:
        clean: data, [B, ...].
        noise: same shape and device, any dtype but float64 (float64 goes with float64).
        sigma: noise level in [0, 1]; a float, or [B] for one per sample.

    Returns:
        The state at `sigma`, contiguous, in the dtype of `clean`, computed in float32 (float64 for float64).
        Differentiable with respect to clean and noise.

    Raises:
        TypeError, ValueError: for arguments that do not fit; the message names the one.
    """
    if _backend.native and not torch.compiler.is_compiling():
        fast: torch.Tensor | None = _native.add_noise(False, clean, noise, sigma)
        if fast is not None:
            return fast
    if not _backend.takes_native(clean, noise):
        return reference.add_noise(clean, noise, sigma)
    _checks.first("clean", clean)
    _checks.like("noise", noise, "clean", clean)
    result: torch.Tensor = torch.ops.danceopd.add_noise(clean, noise, *_checks.sigma("sigma", sigma, clean))
    return result
