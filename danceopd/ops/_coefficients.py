"""What the higher-order and stochastic steps multiply with, in float64: csrc/ops says the same in C++."""

from __future__ import annotations

import torch

Pick = float | torch.Tensor


def _double(value: Pick) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value
    # Without dimensions it goes with tensors on any device.
    return torch.tensor(value, dtype=torch.float64, device="cpu")


def ab2(sigma_previous: Pick, sigma: Pick, sigma_next: Pick) -> tuple[torch.Tensor, torch.Tensor]:
    """Adams-Bashforth 2 over uneven steps: the coefficients of the velocity and of the one before."""
    before, now, then = (_double(s) for s in (sigma_previous, sigma, sigma_next))
    d = then - now
    slope = torch.where(d == 0, 0.0, d / (2.0 * (now - before)))
    return d * (1.0 + slope), -d * slope


def dpmpp_2m(sigma_previous: Pick, sigma: Pick, sigma_next: Pick) -> torch.Tensor:
    """DPM-Solver++(2M): the coefficient of the difference of the last two predictions of the clean sample.

    (1 - sigma_next / sigma) h / (2 h_previous), where h are the steps in log((1 - sigma) / sigma); 0 after a
    step that began at pure noise and on the step to clean (sigma_next below 1e-30), where one of them is
    infinite.
    """
    before, now, then = (_double(s) for s in (sigma_previous, sigma, sigma_next))
    h = torch.log(((1.0 - then) * now) / ((1.0 - now) * then))
    h_previous = torch.log(((1.0 - now) * before) / ((1.0 - before) * now))
    first_order = (before == 1.0) | (then < 1e-30) | (then == now)
    return torch.where(first_order, 0.0, (1.0 - then / now) * (h / (2.0 * h_previous)))


def sde(sigma: Pick, sigma_next: Pick, noise_level: float) -> tuple[torch.Tensor, ...]:
    """The stochastic transition: coefficients of sample and velocity in its mean, `std`, and its own std.

    The equations are those of `danceopd.ops.sde_step`.
    """
    now, then = _double(sigma).clamp(1e-4, 1.0), _double(sigma_next)
    d = then - now
    s = torch.where(now >= 0.9999, then.clamp(1e-4, 0.999), now)
    std = noise_level * (now / (1.0 - s).clamp(min=1e-4)).sqrt()
    drift = std * std / (2.0 * now)
    return 1.0 + drift * d, (1.0 + drift * (1.0 - now)) * d, std, std * (-d).clamp(min=1e-6).sqrt()
