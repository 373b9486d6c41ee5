"""Autograd for the losses without torch's dispatcher, whose price is several times that of a small loss."""

from __future__ import annotations

from collections.abc import Callable
from math import frexp
from typing import Any

import torch
from torch.compiler import is_dynamo_compiling

from danceopd.ops import _native, _private

Number = float | torch.Tensor
Tensors = tuple[torch.Tensor | None, ...]
Numbers = tuple[float, ...]
# From the incoming gradient, whether nothing but the kernel is wanted, the saved tensors and the numbers: the
# leaf's gradient.
Remake = Callable[[torch.Tensor, bool, Tensors, Numbers], torch.Tensor]

_WIDE = (torch.float32, torch.float64)


class _Loss(torch.autograd.Function):
    """A loss that was computed already, with a way back to its one leaf.

    Arguments: the leaf; the loss, not yet part of a graph, and the leaf's gradient where it was made with the
    loss; the other tensors and the numbers that `remake` makes the gradient from where it was not.
    """

    @staticmethod
    def forward(
        ctx: Any,
        leaf: torch.Tensor,
        rest: tuple[torch.Tensor, torch.Tensor | None, Tensors, Numbers, Remake],
    ) -> torch.Tensor:
        loss, gradient, constants, numbers, remake = rest
        ctx.save_for_backward(leaf, *constants)
        ctx.rest = gradient, numbers, remake
        return loss

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        gradient, numbers, remake = ctx.rest
        # Compiled autograd traces this and knows the registered ops alone.
        plain = (
            not is_dynamo_compiling()
            and not torch.is_grad_enabled()
            and type(grad) is torch.Tensor
            and not _private.transformed()
            and not _private.batched(grad)
        )
        if gradient is not None and plain:
            # Given away once and for all: whoever receives it may write to it, and a second pass over a
            # retained graph makes another.
            ctx.rest = None, numbers, remake
            factor = grad.item()
            if factor == 1.0:
                return gradient, None
            # Powers of two, as under gradient accumulation, move bfloat16 without rounding.
            exact = gradient.dtype == torch.bfloat16 and abs(frexp(factor)[0]) == 0.5
            if exact or gradient.dtype in _WIDE:
                return gradient.mul_(factor), None
        # Made from the operands: a narrow gradient is rounded once, after it was scaled (in float16 the
        # unscaled one may have underflowed), and a graph of this pass refuses to be differentiated.
        return remake(grad, plain, ctx.saved_tensors, numbers), None


# What `_Loss.apply` comes down to where no function transform is at work, and under one nobody comes here.
_apply: Callable[..., torch.Tensor] = super(torch.autograd.Function, _Loss).apply


def attach_mse(
    student: torch.Tensor,
    loss: torch.Tensor,
    gradient: torch.Tensor | None,
    teacher: torch.Tensor,
    uncond: torch.Tensor | None,
    scale: Number,
    weight: Number | None,
) -> torch.Tensor:
    """`velocity_mse`, its mean or [B], as part of a graph; the arguments as the kernel took them."""
    s, scale_each = (1.0, scale) if isinstance(scale, torch.Tensor) else (float(scale), None)
    w, weight_each = (
        (1.0, weight)
        if isinstance(weight, torch.Tensor)
        else (1.0 if weight is None else float(weight), None)
    )
    constants = teacher, uncond, scale_each, weight_each
    return _apply(student, (loss, gradient, constants, (s, w), _remake_mse))


def _remake_mse(grad: torch.Tensor, plain: bool, tensors: Tensors, numbers: Numbers) -> torch.Tensor:
    student, teacher, uncond, scale, weight = tensors
    assert student is not None
    s, w = numbers
    batch = student.shape[0]
    # The kernel's gradient is that of the mean over samples; undo that mean where there was none.
    each = (grad * (batch if grad.ndim else 1) * (w if weight is None else weight)).expand(batch)
    if plain:
        fast: tuple[torch.Tensor, torch.Tensor] | None = _native.velocity_mse(
            False,
            student,
            teacher,
            uncond,
            s if scale is None else scale,
            each.contiguous(),
            *(None, 0, 1, 1, 1.0, True, None, None),
        )
        if fast is not None:
            return fast[1]
    _, gradient = torch.ops.danceopd.velocity_mse_with_grad(
        student, teacher, uncond, s, scale, 1.0, each, None, 1.0
    )
    return gradient


def attach_kl(
    mean: torch.Tensor, loss: torch.Tensor, teacher_mean: torch.Tensor, std: Number
) -> torch.Tensor:
    """`transition_kl` as part of a graph; the arguments as the kernel took them."""
    s, each = (1.0, std) if isinstance(std, torch.Tensor) else (float(std), None)
    return _apply(mean, (loss, None, (teacher_mean, each), (s,), _remake_kl))


def _remake_kl(grad: torch.Tensor, plain: bool, tensors: Tensors, numbers: Numbers) -> torch.Tensor:
    mean, teacher_mean, each = tensors
    w, weight = (0.5 / numbers[0] ** 2, None) if each is None else (1.0, 0.5 / each.double().square())
    return _remake_mse(grad, plain, (mean, teacher_mean, None, None, weight), (1.0, w))


def attach_policy(
    log_prob: torch.Tensor,
    loss: torch.Tensor,
    gradient: torch.Tensor | None,
    old_log_prob: torch.Tensor,
    advantage: torch.Tensor,
    clip_range: float,
    advantage_clip: float,
) -> torch.Tensor:
    """`policy_loss` as part of a graph; the arguments as the kernel took them."""
    constants, numbers = (old_log_prob, advantage), (float(clip_range), float(advantage_clip))
    return _apply(log_prob, (loss, gradient, constants, numbers, _remake_policy))


def _remake_policy(grad: torch.Tensor, plain: bool, tensors: Tensors, numbers: Numbers) -> torch.Tensor:
    if plain:
        fast: tuple[torch.Tensor, torch.Tensor] | None = _native.policy_loss(
            False, *tensors, *numbers, grad.reshape(1), True
        )
        if fast is not None:
            return fast[1]
    _, gradient = torch.ops.danceopd.policy_loss_with_grad(*tensors, *numbers, grad)
    return gradient
