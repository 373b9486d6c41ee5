"""policy_loss as torch knows it."""

from __future__ import annotations

from typing import Any

import torch

from danceopd.ops import _native, reference
from danceopd.ops._library.base import LIBRARY, like, register, run
from danceopd.ops._library.losses import fake_loss, once

Tensor = torch.Tensor

_ARGUMENTS = "Tensor log_prob, Tensor old_log_prob, Tensor advantage, float clip_range, float advantage_clip"


def _policy_loss(log_prob: Tensor, old: Tensor, advantage: Tensor, reach: float, bound: float) -> Tensor:
    p, o, a = log_prob.contiguous(), old.contiguous(), advantage.contiguous()

    def twin() -> tuple[Tensor, None]:
        return reference.clipped_objective(p, o, a, reach, bound), None

    loss: Tensor = run(_native.policy_loss, twin, p, p, o, a, reach, bound, 1.0, None)[0]
    return loss


def _policy_loss_with_grad(
    log_prob: Tensor, old: Tensor, advantage: Tensor, reach: float, bound: float, grad_scale: Tensor
) -> tuple[Tensor, Tensor]:
    p, o, a = log_prob.contiguous(), old.contiguous(), advantage.contiguous()

    def twin() -> tuple[Tensor, Tensor]:
        leaf = p.detach().requires_grad_()
        with torch.enable_grad():
            loss = reference.clipped_objective(leaf, o, a, reach, bound)
        return loss.detach(), torch.autograd.grad(loss, leaf, grad_scale.to(loss.dtype))[0]

    scale = grad_scale.reshape(1)
    both: tuple[Tensor, Tensor] = run(_native.policy_loss, twin, p, p, o, a, reach, bound, scale, True)
    return both


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *operands, ctx.clip_range, ctx.advantage_clip = inputs
    ctx.save_for_backward(*operands)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    """Read everything again, as velocity_mse does."""
    _, to_log_prob = torch.ops.danceopd.policy_loss_with_grad(
        *ctx.saved_tensors, ctx.clip_range, ctx.advantage_clip, grad
    )
    return to_log_prob, *(None,) * 4


register(
    f"policy_loss({_ARGUMENTS}) -> Tensor", _policy_loss, lambda log_prob, *_: fake_loss(log_prob, mean=True)
)
register(
    f"policy_loss_with_grad({_ARGUMENTS}, Tensor grad_scale) -> (Tensor, Tensor)",
    _policy_loss_with_grad,
    lambda log_prob, *_: (fake_loss(log_prob, mean=True), like(log_prob)),
)
torch.library.register_autograd("danceopd::policy_loss", _backward, setup_context=_setup, lib=LIBRARY)
torch.library.register_autograd("danceopd::policy_loss_with_grad", once, lib=LIBRARY)
