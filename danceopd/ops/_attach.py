"""Autograd for the losses without torch's dispatcher, whose price is several times that of a small loss."""

from __future__ import annotations

from math import frexp
from typing import Any

import torch

from danceopd.ops import _backend, _native, _private

Number = float | torch.Tensor
_WIDE = (torch.float32, torch.float64)


def attach(
    student: torch.Tensor,
    loss: torch.Tensor,
    gradient: torch.Tensor | None,
    teacher: torch.Tensor,
    uncond: torch.Tensor | None,
    scale: Number,
    weight: Number | None,
) -> torch.Tensor:
    """The loss, with a way back to the student.

    Args:
        student: the one operand that requires grad.
        loss: of the other operands, its scalar mean or [B]; not yet part of a graph.
        gradient: of the scalar loss with respect to the student where it was made with the loss; it is given
            away in the first backward pass.
        teacher: as the kernel took it, and so are the rest.
        uncond: the teacher's velocity without the condition.
        scale: of the guidance.
        weight: of the samples; 1 when not given.
    """
    tensors = [t if isinstance(t, torch.Tensor) else None for t in (scale, weight)]
    numbers = (
        1.0 if tensors[0] is not None else float(scale),
        1.0 if weight is None or tensors[1] is not None else float(weight),
    )
    result: torch.Tensor = _Loss.apply(student, (loss, gradient), (teacher, uncond, *tensors), numbers)
    return result


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        student: torch.Tensor,
        made: tuple[torch.Tensor, torch.Tensor | None],
        constants: tuple[torch.Tensor | None, ...],
        numbers: tuple[float, float],
    ) -> torch.Tensor:
        ctx.save_for_backward(student, *constants)
        ctx.numbers = numbers
        loss, ctx.gradient = made
        return loss

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        plain = not torch.is_grad_enabled() and _backend.takes_native(grad) and not _private.batched(grad)
        # Taken out once and for all: whoever receives it may write to it, and a second pass over a retained
        # graph makes another.
        gradient = vars(ctx).pop("gradient", None) if plain else None
        if gradient is not None:
            factor = grad.item()
            if factor == 1.0:
                return gradient, None, None, None
            # Powers of two, as under gradient accumulation, move bfloat16 without rounding.
            exact = gradient.dtype == torch.bfloat16 and abs(frexp(factor)[0]) == 0.5
            if exact or gradient.dtype in _WIDE:
                return gradient.mul_(factor), None, None, None
        # Made from the operands: a narrow gradient is rounded once, after it was scaled (in float16 the
        # unscaled one may have underflowed), and a graph of this pass refuses to be differentiated.
        student, teacher, uncond, scale, weight = ctx.saved_tensors
        s, w = ctx.numbers
        batch = student.shape[0]
        # The kernel's gradient is that of the mean over samples; undo that mean where there was none.
        each = grad * (batch if grad.ndim else 1) * (w if weight is None else weight)
        if plain:
            fast: tuple[torch.Tensor, torch.Tensor] | None = _native.velocity_mse(
                False,
                student,
                teacher,
                uncond,
                s if scale is None else scale,
                each.expand(batch).contiguous(),
                *(None, 0, 1, 1, 1.0, True),
            )
            if fast is not None:
                return fast[1], None, None, None
        _, to_student = torch.ops.danceopd.velocity_mse_with_grad(
            student, teacher, uncond, s, scale, 1.0, each.expand(batch), None, 1.0
        )
        return to_student, None, None, None
