"""sde_step as torch knows it."""

from __future__ import annotations

from typing import Any

import torch

from danceopd.ops import _coefficients, _native, reference
from danceopd.ops._arithmetic import compute_dtype, per_sample, times
from danceopd.ops._library.base import LIBRARY, grad_of, like, pick, register, run

Tensor = torch.Tensor


def _sde_step(
    sample: Tensor,
    velocity: Tensor,
    next_sample: Tensor | None,
    noise: Tensor | None,
    seed: int,
    seed_each: Tensor | None,
    sigma: float,
    sigma_each: Tensor | None,
    sigma_next: float,
    sigma_next_each: Tensor | None,
    noise_level: float,
) -> tuple[Tensor, ...]:
    sample, velocity = sample.contiguous(), velocity.contiguous()
    next_sample = None if next_sample is None else next_sample.contiguous()
    noise = None if noise is None else noise.contiguous()
    drawn = seed if seed_each is None else seed_each.contiguous()
    now, then = pick(sigma, sigma_each), pick(sigma_next, sigma_next_each)

    def twin() -> tuple[Tensor, ...]:
        return reference.transition(sample, velocity, next_sample, noise, drawn, now, then, noise_level)

    args = (sample, velocity, next_sample, noise, drawn, now, then, noise_level)
    result, *rest = run(_native.sde_step, twin, sample, *args)
    # An op may not return its argument: a sample that was given comes back empty.
    return (sample.new_empty(0) if next_sample is not None else result), *rest


def _fake(sample: Tensor, velocity: Tensor, next_sample: Tensor | None, *_: Any) -> tuple[Tensor, ...]:
    each = [sample.new_empty((sample.shape[0],), dtype=compute_dtype(sample)) for _ in range(2)]
    return (like(sample) if next_sample is None else sample.new_empty(0)), like(sample), *each


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    sample, velocity, next_sample, _, _, _, ctx.sigma, now, ctx.sigma_next, then, ctx.noise_level = inputs
    ctx.given = next_sample is not None
    ctx.mark_non_differentiable(output[3])
    # Not the mean: it was rounded to the sample's dtype, and the score is a small difference from it.
    ctx.save_for_backward(sample, velocity, next_sample if ctx.given else output[0], now, then)
    ctx.set_materialize_grads(False)


def _backward(
    ctx: Any, to_next: Tensor | None, to_mean: Tensor | None, to_log_prob: Tensor | None, to_std: None
) -> tuple[Any, ...]:
    sample, velocity, reached, now, then = ctx.saved_tensors
    sigma, sigma_next = per_sample((ctx.sigma, now), sample), per_sample((ctx.sigma_next, then), sample)
    from_sample, from_velocity, _, step_std = _coefficients.sde(sigma, sigma_next, ctx.noise_level)
    wide = compute_dtype(sample)
    parts = [g.to(wide) for g in (to_mean, None if ctx.given else to_next) if g is not None]
    if to_log_prob is not None:  # of a sample that is given, also where it was drawn here: the score
        mean = times(from_sample, sample.to(wide)) + times(from_velocity, velocity.to(wide))
        each = per_sample((0.0, to_log_prob), sample) / (step_std**2 * (sample.numel() // sample.shape[0]))
        parts.append(each.to(wide) * (reached.to(wide) - mean))
    if not parts:
        return (None,) * 11
    total = sum(parts[1:], parts[0])
    return (
        grad_of(from_sample, total, sample.dtype),
        grad_of(from_velocity, total, velocity.dtype),
        *(None,) * 9,
    )


register(
    "sde_step(Tensor sample, Tensor velocity, Tensor? next_sample, Tensor? noise, int seed, "
    "Tensor? seed_each, float sigma, Tensor? sigma_each, float sigma_next, Tensor? sigma_next_each, "
    "float noise_level) -> (Tensor, Tensor, Tensor, Tensor)",
    _sde_step,
    _fake,
)
torch.library.register_autograd("danceopd::sde_step", _backward, setup_context=_setup, lib=LIBRARY)
