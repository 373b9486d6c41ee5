"""The rivals that take more than a line.

Eager is what pipelines, schedulers and trainers write; tuned is what a careful author writes without kernels:
the fewest passes over memory that public torch calls allow, over the sample or into preallocated results, and
intermediates in the dtype of the operands, which the ops and eager code keep in float32. The coefficients of
a step are numbers computed beforehand, though many a scheduler computes them with tensors at every step.
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
    # Without the guided velocity in between: as many passes, over one tensor less.
    return o.x.add_(o.u, alpha=STEP * (1 - SCALE)).add_(o.v, alpha=STEP * SCALE)


def tuned_heun(o: Operands) -> Tensor:
    return o.x.add_(o.v, alpha=STEP / 2).add_(o.u, alpha=STEP / 2)


AB2 = STEP / (2 * (SIGMA - SIGMA_PREVIOUS))


def eager_ab2(o: Operands) -> Tensor:
    return (o.x.float() + STEP * ((1 + AB2) * o.v - AB2 * o.u)).to(o.v.dtype)


def tuned_ab2(o: Operands) -> Tensor:
    return o.x.add_(o.v, alpha=STEP * (1 + AB2)).add_(o.u, alpha=-STEP * AB2)


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
    # x + STEP v is clean + SIGMA_NEXT v, and the change from the clean estimate before extends a lerp.
    extended = torch.lerp(clean, o.u, -0.5 * DPMPP * H / H_PREVIOUS, out=o.out)
    return extended.add_(o.v, alpha=SIGMA_NEXT), clean


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
    log_prob = _square_norm(noise, dim=1).mul_(-0.5 / noise.shape[1]).add_(LOG_PEAK)
    return torch.add(mean, noise, alpha=NOISE, out=o.out), mean, log_prob


def tuned_sde(o: Operands) -> tuple[Tensor, Tensor, Tensor]:
    return _tuned_transition(o, o.u)


def tuned_sde_drawn(o: Operands) -> tuple[Tensor, Tensor, Tensor]:
    return _tuned_transition(o, o.out.normal_())


# -- fields --------------------------------------------------------------------------------------------------


def tuned_blend(o: Operands) -> Tensor:
    w0, w1, w2 = WEIGHTS  # they add up to one, which saves a pass
    return torch.lerp(o.x, o.v, w1 / (w0 + w1), out=o.out).lerp_(o.u, w2)


def _routed(o: Operands) -> list[Tensor]:
    """The chosen rows; the choice is on the host, so that no rival waits for the device to read it."""
    fields = o.x, o.v, o.u
    return [fields[field][row] for row, field in enumerate(o.choice)]


def eager_route(o: Operands) -> Tensor:
    return torch.stack(_routed(o))


def tuned_route(o: Operands) -> Tensor:
    return torch.stack(_routed(o), out=o.out)  # one call; a `copy_` per row takes longer on small tensors


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


def _square_norm(x: Tensor, dim: int | None = None) -> Tensor:
    # Norms of bfloat16 add up in float32 anyhow; asked for a float32 one, torch first copies all to float32.
    return torch.linalg.vector_norm(x, dim=dim).float().square_()


def tuned_mse(o: Operands) -> Tensor:
    torch.sub(o.x, o.v, out=o.out)
    return _square_norm(o.out).mul_(1 / o.x.numel())


def tuned_mse_backward(o: Operands) -> tuple[Tensor, Tensor]:
    return tuned_mse(o), o.out.mul_(2 / o.x.numel())


def tuned_mse_each(o: Operands, scale: float = 1.0) -> Tensor:
    torch.sub(o.x, o.v, out=o.out)
    return _square_norm(o.out, dim=1).mul_(scale / o.x.shape[1])


def tuned_mse_each_backward(o: Operands) -> tuple[Tensor, Tensor]:
    return tuned_mse_each(o), o.out.mul_(2 / o.x.numel())


def policy(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor) -> Tensor:
    ratio = torch.exp(log_prob.float() - old_log_prob.float())
    bounded = torch.clamp(advantage.float(), -5.0, 5.0)
    return torch.maximum(-bounded * ratio, -bounded * torch.clamp(ratio, 1 - 1e-4, 1 + 1e-4)).mean()


def policy_backward(loss: Callable[..., Tensor], o: Operands) -> tuple[Tensor, Tensor]:
    """A loss of (log_prob, old_log_prob, advantage) and its gradient by autograd."""
    log_prob = o.x.detach().requires_grad_()
    value = loss(log_prob, o.v, o.u)
    return value, torch.autograd.grad(value, log_prob)[0]


def compiled_policy_backward(compiler: Callable[[Any], Any]) -> Form:
    loss = compiler(policy)
    return lambda o: policy_backward(loss, o)


def _free_and_clipped(o: Operands) -> tuple[Tensor, Tensor]:
    ratio = torch.sub(o.x, o.v, out=o.spare).exp_()
    advantage = torch.clamp(o.u, -5.0, 5.0, out=o.out)
    free = torch.mul(ratio, advantage, out=o.third)
    return free, ratio.clamp_(1 - 1e-4, 1 + 1e-4).mul_(advantage)


def tuned_policy(o: Operands) -> Tensor:
    free, clipped = _free_and_clipped(o)
    return torch.minimum(free, clipped, out=clipped).mean().float().neg_()


def tuned_policy_backward(o: Operands) -> tuple[Tensor, Tensor]:
    free, clipped = _free_and_clipped(o)
    cut = clipped < free
    loss = torch.minimum(free, clipped, out=clipped).mean().float().neg_()
    return loss, free.mul_(-1 / o.x.numel()).masked_fill_(cut, 0.0)
