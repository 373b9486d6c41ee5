"""The stochastic step that policy gradients need, with its log-probability."""

from __future__ import annotations

import torch
from torch.compiler import is_dynamo_compiling

from danceopd.ops import _backend, _checks, _library, _native, reference  # noqa: F401  (registers the ops)
from danceopd.ops._transition import SDEStep

Number = float | torch.Tensor


def sde_step(
    sample: torch.Tensor,
    velocity: torch.Tensor,
    sigma: Number,
    sigma_next: Number,
    *,
    noise_level: float = 0.7,
    noise: torch.Tensor | None = None,
    seed: int | torch.Tensor | None = None,
    next_sample: torch.Tensor | None = None,
) -> SDEStep:
    """One step of the stochastic flow of Flow-GRPO and Flow-OPD (arXiv 2605.08043).

    With sigma clamped to [1e-4, 1], `d = sigma_next - sigma`, and `s = sigma` (below 0.9999; above, sigma_next
    clamped to [1e-4, 0.999], as 1 - sigma vanishes at pure noise):

        std = noise_level * sqrt(sigma / max(1 - s, 1e-4))
        mean = sample * (1 + std^2 / (2 sigma) * d) + velocity * (1 + std^2 (1 - sigma) / (2 sigma)) * d
        next = mean + std * sqrt(max(-d, 1e-6)) * noise

    Exactly one of `noise`, `seed` and `next_sample` is given.

    Args:
        sample: the state, [B, ...]; keep it in float32: a log-probability needs the sample that was really used.
        velocity: v at the state; same shape and device, any dtype but float64 (float64 goes with float64).
        sigma: noise level of the state in [0, 1]; a float, or [B] for one per sample.
        sigma_next: noise level to reach, at most `sigma`.
        noise_level: eta, above 0.
        noise: standard normals of the sample's shape, a constant.
        seed: draws the noise here. Element i of the batch is element i of the stream of an int in [0, 2^63);
            with int64 [B], element i of a sample is element i of that sample's own stream, whatever the batch.
            The same bits on CPU and CUDA, for any number of threads. In a CUDA graph, an int is fixed at capture
            and a tensor is read at every replay.
        next_sample: the state that was reached earlier, a constant: its log-probability is asked for, and it is
            the same bits as when it was drawn.

    Returns:
        `SDEStep(sample, mean, log_prob, std)`, computed in float32 (float64 for float64). `sample`, `mean` and
        `log_prob` are differentiable with respect to sample and velocity; the gradient of `log_prob` takes the
        reached sample as given (the score), also where it was drawn here.

    Raises:
        TypeError, ValueError: for arguments that do not fit; the message names the one.
    """
    if _backend.native and not is_dynamo_compiling() and _one(noise, seed, next_sample):
        fast: tuple[torch.Tensor, ...] | None = _native.sde_step(
            False, sample, velocity, next_sample, noise, seed, sigma, sigma_next, noise_level
        )
        if fast is not None:
            drawn, *rest = fast
            return SDEStep(drawn if next_sample is None else next_sample, *rest)
    if not _backend.takes_native(sample, velocity, noise, next_sample):
        return reference.sde_step(
            sample,
            velocity,
            sigma,
            sigma_next,
            noise_level=noise_level,
            noise=noise,
            seed=seed,
            next_sample=next_sample,
        )
    _checks.beside("sample", sample, velocity=velocity)
    seeds = _checks.noise_source(sample, noise, seed, next_sample)
    now, then = _checks.sigma("sigma", sigma, sample), _checks.sigma("sigma_next", sigma_next, sample)
    _checks.descending(sigma, sigma_next)
    level = _checks.noise_level(noise_level)
    drawn, *rest = torch.ops.danceopd.sde_step(
        sample, velocity, next_sample, noise, *seeds, *now, *then, level
    )
    return SDEStep(drawn if next_sample is None else next_sample, *rest)


def _one(noise: object, seed: object, next_sample: object) -> bool:
    return (noise is not None) + (seed is not None) + (next_sample is not None) == 1
