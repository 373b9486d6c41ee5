"""The ops in plain torch: the readable definition, and what serves subclasses and devices without kernels.

Same names, arguments and errors as `danceopd.ops`. Computed in float32 (float64 for float64), differentiable
by torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from danceopd.ops import _checks, _coefficients, _out, _philox
from danceopd.ops._arithmetic import compute_dtype, per_sample, times
from danceopd.ops._transition import SDEStep

__all__ = [
    "ab2_step",
    "add_noise",
    "blend",
    "dpmpp_2m_step",
    "euler_step",
    "guide",
    "heun_step",
    "policy_loss",
    "route",
    "sde_step",
    "transition_kl",
    "velocity_mse",
    "velocity_mse_with_grad",
]


def _guided(uncond: torch.Tensor, cond: torch.Tensor, scale: float | torch.Tensor) -> torch.Tensor:
    return uncond + times(scale, cond - uncond)


def _sigmas(sample: torch.Tensor, **values: _checks.Number | None) -> list[float | torch.Tensor]:
    return [per_sample(_checks.sigma(name, s, sample), sample) for name, s in values.items()]


def _velocity(
    sample: torch.Tensor,
    velocity: torch.Tensor,
    uncond: torch.Tensor | None,
    guidance_scale: _checks.Number,
) -> torch.Tensor:
    """The velocity of a step, guided where an unconditional one is given, in the dtype of the maths."""
    scale = per_sample(_checks.finite("guidance_scale", guidance_scale, sample), sample)
    v = velocity.to(compute_dtype(sample))
    return v if uncond is None else _guided(uncond.to(v.dtype), v, scale)


def guide(
    uncond: torch.Tensor, cond: torch.Tensor, scale: _checks.Number, *, out: torch.Tensor | None = None
) -> torch.Tensor:
    """See `danceopd.ops.guide`."""
    _checks.first("uncond", uncond)
    _checks.like("cond", cond, "uncond", uncond, same_dtype=True)
    s = per_sample(_checks.finite("scale", scale, uncond), uncond)
    dtype = compute_dtype(uncond)
    _out.check(out, "uncond", uncond, {"uncond": uncond, "cond": cond}, scale=scale)
    return _out.filled(out, _guided(uncond.to(dtype), cond.to(dtype), s).to(uncond.dtype))


def euler_step(
    sample: torch.Tensor,
    velocity: torch.Tensor,
    sigma: _checks.Number,
    sigma_next: _checks.Number,
    *,
    uncond: torch.Tensor | None = None,
    guidance_scale: _checks.Number = 1.0,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """See `danceopd.ops.euler_step`."""
    _checks.guided(uncond, guidance_scale)
    _checks.beside("sample", sample, velocity=velocity)
    _checks.perhaps("sample", sample, uncond=uncond)
    now, then = _sigmas(sample, sigma=sigma, sigma_next=sigma_next)
    _checks.descending(sigma, sigma_next)
    v = _velocity(sample, velocity, uncond, guidance_scale)
    _out.check(
        out,
        "sample",
        sample,
        {"sample": sample, "velocity": velocity, "uncond": uncond},
        sigma=sigma,
        sigma_next=sigma_next,
        guidance_scale=None if uncond is None else guidance_scale,
    )
    return _out.filled(out, (sample.to(v.dtype) + times(then - now, v)).to(sample.dtype))


def heun_step(
    sample: torch.Tensor,
    velocity: torch.Tensor,
    velocity_next: torch.Tensor,
    sigma: _checks.Number,
    sigma_next: _checks.Number,
    *,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """See `danceopd.ops.heun_step`."""
    _checks.beside("sample", sample, velocity=velocity, velocity_next=velocity_next)
    now, then = _sigmas(sample, sigma=sigma, sigma_next=sigma_next)
    _checks.descending(sigma, sigma_next)
    dtype = compute_dtype(sample)
    twice = velocity.to(dtype) + velocity_next.to(dtype)
    _out.check(
        out,
        "sample",
        sample,
        {"sample": sample, "velocity": velocity, "velocity_next": velocity_next},
        sigma=sigma,
        sigma_next=sigma_next,
    )
    return _out.filled(out, (sample.to(dtype) + times(0.5 * (then - now), twice)).to(sample.dtype))


def ab2_step(
    sample: torch.Tensor,
    velocity: torch.Tensor,
    velocity_previous: torch.Tensor,
    sigma_previous: _checks.Number,
    sigma: _checks.Number,
    sigma_next: _checks.Number,
    *,
    uncond: torch.Tensor | None = None,
    guidance_scale: _checks.Number = 1.0,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """See `danceopd.ops.ab2_step`."""
    _checks.guided(uncond, guidance_scale)
    _checks.beside("sample", sample, velocity=velocity, velocity_previous=velocity_previous)
    _checks.perhaps("sample", sample, uncond=uncond)
    before, now, then = _sigmas(sample, sigma_previous=sigma_previous, sigma=sigma, sigma_next=sigma_next)
    _checks.descending(sigma, sigma_next)
    _checks.moved(sigma_previous, sigma, sigma_next)
    v = _velocity(sample, velocity, uncond, guidance_scale)
    this, previous = _coefficients.ab2(before, now, then)
    moved = times(this, v) + times(previous, velocity_previous.to(v.dtype))
    _out.check(
        out,
        "sample",
        sample,
        {"sample": sample, "velocity": velocity, "velocity_previous": velocity_previous, "uncond": uncond},
        sigma_previous=sigma_previous,
        sigma=sigma,
        sigma_next=sigma_next,
        guidance_scale=None if uncond is None else guidance_scale,
    )
    return _out.filled(out, (sample.to(v.dtype) + moved).to(sample.dtype))


def dpmpp_2m_step(
    sample: torch.Tensor,
    velocity: torch.Tensor,
    clean_previous: torch.Tensor | None,
    sigma_previous: _checks.Number | None,
    sigma: _checks.Number,
    sigma_next: _checks.Number,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `danceopd.ops.dpmpp_2m_step`."""
    _checks.beside("sample", sample, velocity=velocity)
    _checks.perhaps("sample", sample, clean_previous=clean_previous)
    now, then = _sigmas(sample, sigma=sigma, sigma_next=sigma_next)
    _checks.descending(sigma, sigma_next)
    dtype = compute_dtype(sample)
    x, v = sample.to(dtype), velocity.to(dtype)
    clean = x - times(now, v)
    reached = x + times(then - now, v)
    if clean_previous is not None:
        (before,) = _sigmas(sample, sigma_previous=sigma_previous)
        _checks.moved(sigma_previous, sigma, sigma_next)
        correction = _coefficients.dpmpp_2m(before, now, then)
        reached = reached + times(correction, clean - clean_previous.to(dtype))
    return reached.to(sample.dtype), clean.to(sample.dtype)


def transition(
    sample: torch.Tensor,
    velocity: torch.Tensor,
    next_sample: torch.Tensor | None,
    noise: torch.Tensor | None,
    seed: int | torch.Tensor,
    sigma: float | torch.Tensor,
    sigma_next: float | torch.Tensor,
    noise_level: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """`sde_step` of checked arguments; the first of next_sample, noise and seed that is given counts."""
    dtype = compute_dtype(sample)
    now, then = (
        per_sample((0.0, s) if isinstance(s, torch.Tensor) else (s, None), sample)
        for s in (sigma, sigma_next)
    )
    from_sample, from_velocity, std, step_std = _coefficients.sde(now, then, noise_level)
    mean = times(from_sample, sample.to(dtype)) + times(from_velocity, velocity.to(dtype))
    if next_sample is None:
        z = _philox.normals(sample.shape, seed, sample.device) if noise is None else noise
        next_sample = (mean + times(step_std, z.to(dtype))).to(sample.dtype)
    # The log-probability of a sample that is given: its gradient is the score, also where it was drawn here.
    distance = (next_sample.detach().to(dtype) - mean).reshape(sample.shape[0], -1)
    spread = step_std.reshape(-1).to(sample.device, dtype)
    log_prob = (
        -(distance * distance).mean(1) / (2.0 * spread**2) - spread.log() - 0.5 * math.log(2.0 * math.pi)
    )
    return (
        next_sample,
        mean.to(sample.dtype),
        log_prob,
        std.reshape(-1).to(log_prob).expand_as(log_prob).clone(),
    )


def sde_step(
    sample: torch.Tensor,
    velocity: torch.Tensor,
    sigma: _checks.Number,
    sigma_next: _checks.Number,
    *,
    noise_level: float = 0.7,
    noise: torch.Tensor | None = None,
    seed: int | torch.Tensor | None = None,
    next_sample: torch.Tensor | None = None,
) -> SDEStep:
    """See `danceopd.ops.sde_step`."""
    _checks.beside("sample", sample, velocity=velocity)
    number, each = _checks.noise_source(sample, noise, seed, next_sample)
    (now, now_each), (then, then_each) = (
        _checks.sigma(name, s, sample) for name, s in (("sigma", sigma), ("sigma_next", sigma_next))
    )
    _checks.descending(sigma, sigma_next)
    return SDEStep(
        *transition(
            sample,
            velocity,
            next_sample,
            noise,
            number if each is None else each,
            now if now_each is None else now_each,
            then if then_each is None else then_each,
            _checks.noise_level(noise_level),
        )
    )


def add_noise(
    clean: torch.Tensor, noise: torch.Tensor, sigma: _checks.Number, *, out: torch.Tensor | None = None
) -> torch.Tensor:
    """See `danceopd.ops.add_noise`."""
    _checks.beside("clean", clean, noise=noise)
    s = per_sample(_checks.sigma("sigma", sigma, clean), clean)
    dtype = compute_dtype(clean)
    _out.check(out, "clean", clean, {"clean": clean, "noise": noise}, sigma=sigma)
    return _out.filled(out, (times(1.0 - s, clean.to(dtype)) + times(s, noise.to(dtype))).to(clean.dtype))


def blend(
    fields: Sequence[torch.Tensor],
    weights: torch.Tensor | Sequence[float],
    *,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """See `danceopd.ops.blend`."""
    fields = _checks.fields(fields)
    checked = _checks.weights(weights, fields)
    _out.check(out, "fields[0]", fields[0], _out.named(fields), weights=weights)
    dtype, total = compute_dtype(fields[0]), None
    for k, field in enumerate(fields):
        weight: float | torch.Tensor
        if isinstance(checked, torch.Tensor):
            weight = checked[..., k].reshape(-1, *(1,) * (field.ndim - 1))
        else:
            weight = checked[k]
        term = times(weight, field.to(dtype))
        total = term if total is None else total + term
    assert total is not None  # fields is not empty
    return _out.filled(out, total.to(fields[0].dtype))


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
    _checks.guided(uncond, guidance_scale)
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
        weighted = times(per_sample(_checks.finite("weight", weight, student), student), weighted)
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
    slope = 2.0 * _checks.number("grad_scale", grad_scale) / student.numel()
    return (weighted * error).reshape(student.shape[0], -1).mean(1), (slope * weighted).to(student.dtype)


def clipped_objective(
    log_prob: torch.Tensor,
    old_log_prob: torch.Tensor,
    advantage: torch.Tensor,
    clip_range: float,
    advantage_clip: float,
) -> torch.Tensor:
    """`policy_loss` of checked arguments."""
    dtype = compute_dtype(log_prob)
    ratio = (log_prob.to(dtype) - old_log_prob.to(dtype)).exp()
    cost = -advantage.to(dtype).clamp(-advantage_clip, advantage_clip)
    return torch.maximum(cost * ratio, cost * ratio.clamp(1.0 - clip_range, 1.0 + clip_range)).mean()


def policy_loss(
    log_prob: torch.Tensor,
    old_log_prob: torch.Tensor,
    advantage: torch.Tensor,
    *,
    clip_range: float = 1e-4,
    advantage_clip: float = 5.0,
) -> torch.Tensor:
    """See `danceopd.ops.policy_loss`."""
    bounds = _checks.policy(log_prob, old_log_prob, advantage, clip_range, advantage_clip)
    return clipped_objective(log_prob, old_log_prob, advantage, *bounds)


def transition_kl(mean: torch.Tensor, teacher_mean: torch.Tensor, std: _checks.Number) -> torch.Tensor:
    """See `danceopd.ops.transition_kl`."""
    _checks.beside("mean", mean, teacher_mean=teacher_mean)
    _checks.constant("teacher_mean", teacher_mean)
    dtype = compute_dtype(mean)
    error = (mean.to(dtype) - teacher_mean.to(dtype)).reshape(mean.shape[0], -1)
    squares = (error * error).mean(1)
    return times(per_sample(_checks.precision(std, mean), squares), squares)
