"""The rivals that take more than a line.

Eager is what pipelines, schedulers and trainers write; tuned is what a careful author writes without kernels:
fused torch calls into preallocated results. The coefficients of a step are numbers computed beforehand,
though many a scheduler computes them with tensors at every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from opbench.operands import SCALE, SIGMA, SIGMA_NEXT, SIGMA_PREVIOUS, WEIGHTS, Operands

Tensor = torch.Tensor
Form = Callable[[Operands], object]

STEP = SIGMA_NEXT - SIGMA


# -- steps ---------------------------------------------------------------------------------------------------


def tuned_guided_step(o: Operands) -> Tensor:
    torch.lerp(o.u, o.v, SCALE, out=o.spare)
    return torch.add(o.x, o.spare, alpha=STEP, out=o.out)


def tuned_heun(o: Operands) -> Tensor:
    torch.add(o.v, o.u, out=o.spare)
    return torch.add(o.x, o.spare, alpha=STEP / 2, out=o.out)


AB2 = STEP / (2 * (SIGMA - SIGMA_PREVIOUS))


def eager_ab2(o: Operands) -> Tensor:
    return (o.x.float() + STEP * ((1 + AB2) * o.v - AB2 * o.u)).to(o.v.dtype)


def tuned_ab2(o: Operands) -> Tensor:
    return torch.add(o.x, o.v, alpha=STEP * (1 + AB2), out=o.out).add_(o.u, alpha=-STEP * AB2)


def _half_log_snr(sigma: float) -> float:
    return math.log((1 - sigma) / sigma)


H = _half_log_snr(SIGMA_NEXT) - _half_log_snr(SIGMA)
H_PREVIOUS = _half_log_snr(SIGMA) - _half_log_snr(SIGMA_PREVIOUS)
DPMPP = (1 - SIGMA_NEXT) * (1 - math.exp(-H))


def eager_dpmpp_2m(o: Operands) -> tuple[Tensor, Tensor]:
    sample = o.x.float()
    clean = sample - SIGMA * o.v
    slope = (H / H_PREVIOUS) * (clean - o.u)
    following = (SIGMA_NEXT / SIGMA) * sample + DPMPP * clean + 0.5 * DPMPP * slope
    return following.to(o.v.dtype), clean.to(o.v.dtype)


def tuned_dpmpp_2m(o: Operands) -> tuple[Tensor, Tensor]:
    clean = torch.add(o.x, o.v, alpha=-SIGMA, out=o.spare)
    change = 0.5 * DPMPP * H / H_PREVIOUS
    following = torch.add(o.x, o.v, alpha=STEP, out=o.out).add_(clean, alpha=change)
    return following.sub_(o.u, alpha=change), clean


# -- the stochastic step: Flow-GRPO's transition with eta = 0.7 ----------------------------------------------

STD = 0.7 * math.sqrt(SIGMA / (1 - SIGMA))
DRIFT = STD**2 / (2 * SIGMA)
OF_SAMPLE, OF_VELOCITY = 1 + DRIFT * STEP, (1 + DRIFT * (1 - SIGMA)) * STEP
NOISE = STD * math.sqrt(-STEP)
LOG_PEAK = -math.log(NOISE) - math.log(2 * math.pi) / 2


def _eager_transition(o: Operands, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    mean = OF_SAMPLE * o.x.float() + OF_VELOCITY * o.v.float()
    following = mean + NOISE * noise
    log_prob = -((following - mean) ** 2) / (2 * NOISE**2) + LOG_PEAK
    return following.to(o.x.dtype), mean.to(o.x.dtype), log_prob.mean(1)


def eager_sde(o: Operands) -> tuple[Tensor, Tensor, Tensor]:
    return _eager_transition(o, o.u)


def eager_sde_drawn(o: Operands) -> tuple[Tensor, Tensor, Tensor]:
    return _eager_transition(o, torch.randn_like(o.x))


def _tuned_transition(o: Operands, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    mean = torch.mul(o.x, OF_SAMPLE, out=o.spare).add_(o.v, alpha=OF_VELOCITY)
    square = torch.linalg.vector_norm(noise, dim=1, dtype=torch.float32).square_()
    log_prob = square.mul_(-0.5 / noise.shape[1]).add_(LOG_PEAK)
    return torch.add(mean, noise, alpha=NOISE, out=o.out), mean, log_prob


def tuned_sde(o: Operands) -> tuple[Tensor, Tensor, Tensor]:
    return _tuned_transition(o, o.u)


def tuned_sde_drawn(o: Operands) -> tuple[Tensor, Tensor, Tensor]:
    return _tuned_transition(o, o.out.normal_())


# -- fields --------------------------------------------------------------------------------------------------


def tuned_blend(o: Operands) -> Tensor:
    w0, w1, w2 = WEIGHTS
    return torch.mul(o.x, w0, out=o.out).add_(o.v, alpha=w1).add_(o.u, alpha=w2)


def tuned_route(o: Operands) -> Tensor:
    index = o.index.view(-1, 1)
    return torch.where(index == 0, o.x, torch.where(index == 1, o.v, o.u), out=o.out)


# -- losses --------------------------------------------------------------------------------------------------


def mse(x: Tensor, v: Tensor) -> Tensor:
    return F.mse_loss(x.float(), v.float())


def backward(loss: Callable[[Tensor, Tensor], Tensor], o: Operands) -> tuple[Tensor, Tensor]:
    """A loss of (student, teacher) and its gradient by autograd."""
    student = o.x.detach().requires_grad_()
    value = loss(student, o.v)
    return value, torch.autograd.grad(value, student)[0]


def compiled_mse_backward(compiler: Callable[[Any], Any]) -> Form:
    loss = compiler(mse)
    return lambda o: backward(loss, o)


def mse_by_hand(o: Operands) -> tuple[Tensor, Tensor]:
    """What is best to compile: no autograd, and a loss per sample."""
    error = o.x.float() - o.v.float()
    return error.square().mean(1), (error * (2 / o.x.numel())).to(o.x.dtype)


def tuned_mse(o: Operands) -> Tensor:
    torch.sub(o.x, o.v, out=o.spare)
    return torch.linalg.vector_norm(o.spare, dtype=torch.float32).square_().div_(o.x.numel())


def tuned_mse_backward(o: Operands) -> tuple[Tensor, Tensor]:
    return tuned_mse(o), torch.mul(o.spare, 2 / o.x.numel(), out=o.out)


def tuned_mse_each(o: Operands) -> Tensor:
    torch.sub(o.x, o.v, out=o.spare)
    return torch.linalg.vector_norm(o.spare, dim=1, dtype=torch.float32).square_().div_(o.x.shape[1])


def tuned_mse_each_backward(o: Operands) -> tuple[Tensor, Tensor]:
    return tuned_mse_each(o), torch.mul(o.spare, 2 / o.x.numel(), out=o.out)


def eager_policy(o: Operands) -> Tensor:
    ratio = torch.exp(o.x.float() - o.v.float())
    advantage = torch.clamp(o.u.float(), -5.0, 5.0)
    return torch.maximum(-advantage * ratio, -advantage * torch.clamp(ratio, 1 - 1e-4, 1 + 1e-4)).mean()


def tuned_policy(o: Operands) -> Tensor:
    ratio = torch.sub(o.x, o.v, out=o.spare).exp_()
    cost = torch.clamp(o.u, -5.0, 5.0, out=o.out).neg_()
    free = ratio * cost
    return torch.maximum(free, ratio.clamp_(1 - 1e-4, 1 + 1e-4).mul_(cost), out=o.out).mean(
        dtype=torch.float32
    )
