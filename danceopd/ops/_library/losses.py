"""velocity_mse as torch knows it."""

from __future__ import annotations

from typing import Any

import torch

from danceopd.ops import _native, reference
from danceopd.ops._arithmetic import compute_dtype
from danceopd.ops._library.base import LIBRARY, like, pick, register, run
from danceopd.ops._masks import lay_out

Tensor = torch.Tensor


_MSE_ARGUMENTS = (
    "Tensor student, Tensor teacher, Tensor? uncond, float scale, Tensor? scale_each, float weight, "
    "Tensor? weight_each, Tensor? mask"
)


def _mse(
    student: Tensor,
    teacher: Tensor,
    uncond: Tensor | None,
    scale: float,
    scale_each: Tensor | None,
    weight: float,
    weight_each: Tensor | None,
    mask: Tensor | None,
    *,
    grad_scale: float = 1.0,
    want_grad: bool = False,
    want_mean: bool = False,
) -> tuple[Tensor, Tensor | None]:
    student, teacher = student.contiguous(), teacher.contiguous()
    uncond = None if uncond is None else uncond.contiguous()
    s, w = pick(scale, scale_each), pick(weight, weight_each)
    mask, *layout = lay_out(mask, student)

    def twin() -> tuple[Tensor, Tensor]:
        return reference.velocity_mse_with_grad(
            student, teacher, uncond=uncond, guidance_scale=s, weight=w, mask=mask, grad_scale=grad_scale
        )

    wanted = True if want_grad else None, True if want_mean else None
    args = (student, teacher, uncond, s, w, mask, *layout, float(grad_scale), *wanted, None)
    loss, gradient = run(_native.velocity_mse, twin, student, *args)
    return (loss.mean() if want_mean and loss.ndim else loss), gradient


def _velocity_mse(*args: Any) -> Tensor:
    loss, _ = _mse(*args[:-1], want_mean=args[-1])
    return loss


def _velocity_mse_with_grad(*args: Any) -> tuple[Tensor, Tensor | None]:
    return _mse(*args[:-1], grad_scale=args[-1], want_grad=True)


def fake_loss(student: Tensor, mean: bool = False) -> Tensor:
    """The result of a loss, without its values: per sample, or their mean."""
    return student.new_empty(() if mean else (student.shape[0],), dtype=compute_dtype(student))


def _velocity_mse_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    student, teacher, uncond, ctx.scale, scale, ctx.weight, weight, mask, _ = inputs
    ctx.save_for_backward(student, teacher, uncond, scale, weight, mask)


def _velocity_mse_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    """Read student and teacher again: that needs no memory of its own and rounds the gradient only once."""
    student, teacher, uncond, scale, weight, mask = ctx.saved_tensors
    batch = student.shape[0]
    # The kernel's gradient is that of the mean over samples; undo that mean where there was none, and weigh
    # with the incoming gradient.
    w = grad * (batch if grad.ndim else 1) * (ctx.weight if weight is None else weight)
    _, to_student = torch.ops.danceopd.velocity_mse_with_grad(
        student, teacher, uncond, ctx.scale, scale, 1.0, w.expand(batch), mask, 1.0
    )
    return to_student, *(None,) * 8


def once(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
    """The backward pass of a backward pass."""
    raise RuntimeError(
        "The losses are differentiable once; use danceopd.ops.reference for second derivatives."
    )


register(
    f"velocity_mse({_MSE_ARGUMENTS}, bool mean) -> Tensor",
    _velocity_mse,
    lambda student, *rest: fake_loss(student, rest[-1]),
)
register(
    f"velocity_mse_with_grad({_MSE_ARGUMENTS}, float grad_scale) -> (Tensor, Tensor)",
    _velocity_mse_with_grad,
    lambda student, *rest: (fake_loss(student), like(student)),
)
torch.library.register_autograd(
    "danceopd::velocity_mse", _velocity_mse_backward, setup_context=_velocity_mse_setup, lib=LIBRARY
)
torch.library.register_autograd("danceopd::velocity_mse_with_grad", once, lib=LIBRARY)
