"""Moves along the flow: guidance, the steps of the deterministic solvers, the interpolant."""

from __future__ import annotations

import torch
from torch.compiler import is_dynamo_compiling

from danceopd.ops import _backend, _checks, _library, _native, _out, reference  # noqa: F401  (registers the ops)

Number = float | torch.Tensor


def guide(
    uncond: torch.Tensor, cond: torch.Tensor, scale: Number, *, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Classifier-free guidance, `uncond + scale * (cond - uncond)`.

    Args:
        uncond: velocity without the condition, [B, ...].
        cond: velocity with it; same shape, dtype and device.
        scale: 1 returns `cond` up to rounding, 0 returns `uncond`; a float, or [B] for one per sample.
        out: where the result goes: contiguous, of its shape, dtype and device. It may be one of the
            fields itself, shares no memory with the arguments otherwise, and none of them may require grad.
            None: a fresh tensor.

    Returns:
        A contiguous tensor of the fields' dtype, computed in float32 (float64 for float64). Differentiable
        with respect to both fields.

    Raises:
        TypeError, ValueError: for arguments that do not fit; the message names the one.
    """
    if _backend.native and not is_dynamo_compiling():
        fast: torch.Tensor | None = _native.guide(False, uncond, cond, scale, out)
        if fast is not None:
            return fast
    if not _backend.takes_native(uncond, cond, out):
        return reference.guide(uncond, cond, scale, out=out)
    _checks.first("uncond", uncond)
    _checks.like("cond", cond, "uncond", uncond, same_dtype=True)
    _out.check(out, "uncond", uncond, {"uncond": uncond, "cond": cond}, scale=scale)
    result: torch.Tensor = torch.ops.danceopd.guide(uncond, cond, *_checks.finite("scale", scale, uncond))
    return _out.filled(out, result)


def euler_step(
    sample: torch.Tensor,
    velocity: torch.Tensor,
    sigma: Number,
    sigma_next: Number,
    *,
    uncond: torch.Tensor | None = None,
    guidance_scale: Number = 1.0,
    out: torch.Tensor | None = None,
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
        guidance_scale: a float or [B]; other than 1 with `uncond` alone (values on a GPU are not looked at).
        out: where the result goes: contiguous, of its shape, dtype and device. It may be one of the
            tensors itself, shares no memory with the arguments otherwise, and none of them may require grad.
            None: a fresh tensor.

    Returns:
        The next state, contiguous, in the sample's dtype, computed in float32 (float64 for float64).
        Differentiable with respect to sample, velocity and uncond.

    Raises:
        TypeError, ValueError: for arguments that do not fit; the message names the one.
    """
    if uncond is None and (type(guidance_scale) is not float or guidance_scale != 1.0):
        _checks.guided(uncond, guidance_scale)
    if _backend.native and not is_dynamo_compiling():
        fast: torch.Tensor | None = _native.euler_step(
            False, sample, velocity, uncond, sigma, sigma_next, guidance_scale, out
        )
        if fast is not None:
            return fast
    if not _backend.takes_native(sample, velocity, uncond, out):
        return reference.euler_step(
            sample, velocity, sigma, sigma_next, uncond=uncond, guidance_scale=guidance_scale, out=out
        )
    _checks.beside("sample", sample, velocity=velocity)
    _checks.perhaps("sample", sample, uncond=uncond)
    now, then = _checks.sigma("sigma", sigma, sample), _checks.sigma("sigma_next", sigma_next, sample)
    _checks.descending(sigma, sigma_next)
    scale = _checks.finite("guidance_scale", guidance_scale, sample)
    _out.check(
        out,
        "sample",
        sample,
        {"sample": sample, "velocity": velocity, "uncond": uncond},
        sigma=sigma,
        sigma_next=sigma_next,
        guidance_scale=guidance_scale,
    )
    result: torch.Tensor = torch.ops.danceopd.euler_step(sample, velocity, uncond, *now, *then, *scale)
    return _out.filled(out, result)


def heun_step(
    sample: torch.Tensor,
    velocity: torch.Tensor,
    velocity_next: torch.Tensor,
    sigma: Number,
    sigma_next: Number,
    *,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Heun's second-order step, `sample + (sigma_next - sigma) * (velocity + velocity_next) / 2`.

    Args:
        sample: the state the step starts from, [B, ...]; float32 is best kept across a rollout.
        velocity: v at the state; same shape and device, any dtype but float64 (float64 goes with float64).
        velocity_next: v at the state that `euler_step` reaches with `velocity`.
        sigma: noise level of the state in [0, 1]; a float, or [B] for one per sample.
        sigma_next: noise level to reach, at most `sigma`, as in `euler_step`.
        out: where the result goes: contiguous, of its shape, dtype and device. It may be one of the
            tensors itself, shares no memory with the arguments otherwise, and none of them may require grad.
            None: a fresh tensor.

    Returns:
        The next state, contiguous, in the sample's dtype, computed in float32 (float64 for float64).
        Differentiable with respect to all three tensors.

    Raises:
        TypeError, ValueError: for arguments that do not fit; the message names the one.
    """
    if _backend.native and not is_dynamo_compiling():
        fast: torch.Tensor | None = _native.heun_step(
            False, sample, velocity, velocity_next, sigma, sigma_next, out
        )
        if fast is not None:
            return fast
    if not _backend.takes_native(sample, velocity, velocity_next, out):
        return reference.heun_step(sample, velocity, velocity_next, sigma, sigma_next, out=out)
    _checks.beside("sample", sample, velocity=velocity, velocity_next=velocity_next)
    now, then = _checks.sigma("sigma", sigma, sample), _checks.sigma("sigma_next", sigma_next, sample)
    _checks.descending(sigma, sigma_next)
    _out.check(
        out,
        "sample",
        sample,
        {"sample": sample, "velocity": velocity, "velocity_next": velocity_next},
        sigma=sigma,
        sigma_next=sigma_next,
    )
    result: torch.Tensor = torch.ops.danceopd.heun_step(sample, velocity, velocity_next, *now, *then)
    return _out.filled(out, result)


def ab2_step(
    sample: torch.Tensor,
    velocity: torch.Tensor,
    velocity_previous: torch.Tensor,
    sigma_previous: Number,
    sigma: Number,
    sigma_next: Number,
    *,
    uncond: torch.Tensor | None = None,
    guidance_scale: Number = 1.0,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Adams-Bashforth's second-order step over uneven sigmas: one velocity per step, and the one before.

    With `d = sigma_next - sigma` and `d_previous = sigma - sigma_previous`:
    `sample + d * (velocity + d / (2 d_previous) * (velocity - velocity_previous))`. The first step of a
    rollout has no step before it; take `euler_step`.

    Args:
        sample: the state, [B, ...]; float32 is best kept across a rollout.
        velocity: v at the state; same shape and device, any dtype but float64 (float64 goes with float64).
        velocity_previous: v at the state before, guided already where the steps are guided.
        sigma_previous: noise level of the state before, above `sigma` (or equal where `sigma_next` is, too).
            A float, or [B] for one per sample.
        sigma: noise level of the state, in [0, 1].
        sigma_next: noise level to reach, at most `sigma`; equal levels leave the state as it is.
        uncond: velocity without the condition. When given, v is `guide(uncond, velocity, guidance_scale)`, in
            the same pass.
        guidance_scale: a float or [B]; other than 1 with `uncond` alone (values on a GPU are not looked at).
        out: where the result goes: contiguous, of its shape, dtype and device. It may be one of the
            tensors itself, shares no memory with the arguments otherwise, and none of them may require grad.
            None: a fresh tensor.

    Returns:
        The next state, contiguous, in the sample's dtype, computed in float32 (float64 for float64).
        Differentiable with respect to all tensors but the sigmas.

    Raises:
        TypeError, ValueError: for arguments that do not fit; the message names the one. Sigmas on a CUDA
            device are not looked at; two equal ones before a step that moves give a state that is not finite.
    """
    if uncond is None and (type(guidance_scale) is not float or guidance_scale != 1.0):
        _checks.guided(uncond, guidance_scale)
    if _backend.native and not is_dynamo_compiling():
        fast: torch.Tensor | None = _native.ab2_step(
            False,
            sample,
            velocity,
            velocity_previous,
            uncond,
            sigma_previous,
            sigma,
            sigma_next,
            guidance_scale,
            out,
        )
        if fast is not None:
            return fast
    if not _backend.takes_native(sample, velocity, velocity_previous, uncond, out):
        return reference.ab2_step(
            sample,
            velocity,
            velocity_previous,
            sigma_previous,
            sigma,
            sigma_next,
            uncond=uncond,
            guidance_scale=guidance_scale,
            out=out,
        )
    _checks.beside("sample", sample, velocity=velocity, velocity_previous=velocity_previous)
    _checks.perhaps("sample", sample, uncond=uncond)
    before = _checks.sigma("sigma_previous", sigma_previous, sample)
    now, then = _checks.sigma("sigma", sigma, sample), _checks.sigma("sigma_next", sigma_next, sample)
    _checks.descending(sigma, sigma_next)
    _checks.moved(sigma_previous, sigma, sigma_next)
    scale = _checks.finite("guidance_scale", guidance_scale, sample)
    _out.check(
        out,
        "sample",
        sample,
        {"sample": sample, "velocity": velocity, "velocity_previous": velocity_previous, "uncond": uncond},
        sigma_previous=sigma_previous,
        sigma=sigma,
        sigma_next=sigma_next,
        guidance_scale=guidance_scale,
    )
    result: torch.Tensor = torch.ops.danceopd.ab2_step(
        sample, velocity, velocity_previous, uncond, *before, *now, *then, *scale
    )
    return _out.filled(out, result)


def dpmpp_2m_step(
    sample: torch.Tensor,
    velocity: torch.Tensor,
    clean_previous: torch.Tensor | None,
    sigma_previous: Number | None,
    sigma: Number,
    sigma_next: Number,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The second-order multistep DPM-Solver++(2M) (arXiv 2211.01095), for a velocity.

    `clean = sample - sigma * velocity` predicts the clean sample, and

        next = sample + (sigma_next - sigma) * velocity + k * (clean - clean_previous)
        k = (1 - sigma_next / sigma) * h / (2 h_previous),  h = lambda(sigma_next) - lambda(sigma)

    with `lambda(sigma) = log((1 - sigma) / sigma)`. k is 0 after a step from pure noise and on the step to
    clean (sigma_next below 1e-30), where lambda is infinite.

    Args:
        sample: the state, [B, ...]; float32 is best kept across a rollout.
        velocity: v at the state; same shape and device, any dtype but float64 (float64 goes with float64).
        clean_previous: `clean` of the step before; None on the first step, which is then an Euler step.
        sigma_previous: noise level of the state before, above `sigma` (or equal where `sigma_next` is, too);
            counts only with `clean_previous`. A float, or [B] for one per sample.
        sigma: noise level of the state, in [0, 1].
        sigma_next: noise level to reach, at most `sigma`; equal levels leave the state as it is.

    Returns:
        (next, clean), contiguous, in the sample's dtype, computed in float32 (float64 for float64).
        Differentiable with respect to all tensors but the sigmas.

    Raises:
        TypeError, ValueError: for arguments that do not fit; the message names the one. Sigmas on a CUDA
            device are not looked at; two equal ones before a step that moves give a state that is not finite.
    """
    if _backend.native and not is_dynamo_compiling():
        fast: tuple[torch.Tensor, torch.Tensor] | None = _native.dpmpp_2m_step(
            False, sample, velocity, clean_previous, sigma_previous, sigma, sigma_next
        )
        if fast is not None:
            return fast
    if not _backend.takes_native(sample, velocity, clean_previous):
        return reference.dpmpp_2m_step(sample, velocity, clean_previous, sigma_previous, sigma, sigma_next)
    _checks.beside("sample", sample, velocity=velocity)
    _checks.perhaps("sample", sample, clean_previous=clean_previous)
    before: _checks.Each = (0.0, None)
    now, then = _checks.sigma("sigma", sigma, sample), _checks.sigma("sigma_next", sigma_next, sample)
    _checks.descending(sigma, sigma_next)
    if clean_previous is not None:
        before = _checks.sigma("sigma_previous", sigma_previous, sample)
        _checks.moved(sigma_previous, sigma, sigma_next)
    reached, clean = torch.ops.danceopd.dpmpp_2m_step(sample, velocity, clean_previous, *before, *now, *then)
    return reached, clean


def add_noise(
    clean: torch.Tensor, noise: torch.Tensor, sigma: Number, *, out: torch.Tensor | None = None
) -> torch.Tensor:
    """The interpolant of rectified flow, `(1 - sigma) * clean + sigma * noise`.

    Args:
        clean: data, [B, ...].
        noise: same shape and device, any dtype but float64 (float64 goes with float64).
        sigma: noise level in [0, 1]; a float, or [B] for one per sample.
        out: where the result goes: contiguous, of its shape, dtype and device. It may be one of the
            tensors itself, shares no memory with the arguments otherwise, and none of them may require grad.
            None: a fresh tensor.

    Returns:
        The state at `sigma`, contiguous, in the dtype of `clean`, computed in float32 (float64 for float64).
        Differentiable with respect to clean and noise.

    Raises:
        TypeError, ValueError: for arguments that do not fit; the message names the one.
    """
    if _backend.native and not is_dynamo_compiling():
        fast: torch.Tensor | None = _native.add_noise(False, clean, noise, sigma, out)
        if fast is not None:
            return fast
    if not _backend.takes_native(clean, noise, out):
        return reference.add_noise(clean, noise, sigma, out=out)
    _checks.beside("clean", clean, noise=noise)
    _out.check(out, "clean", clean, {"clean": clean, "noise": noise}, sigma=sigma)
    result: torch.Tensor = torch.ops.danceopd.add_noise(clean, noise, *_checks.sigma("sigma", sigma, clean))
    return _out.filled(out, result)
