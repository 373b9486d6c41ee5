"""blend and route as torch knows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from danceopd.ops import _native, reference
from danceopd.ops._arithmetic import compute_dtype
from danceopd.ops._library.base import LIBRARY, grad_of, like, register, run

Tensor = torch.Tensor


def _blend(fields: list[Tensor], weights: Tensor | None, numbers: list[float] | None) -> Tensor:
    fields = [field.contiguous() for field in fields]
    w = list(numbers or ()) if weights is None else weights.contiguous()
    return run(_native.blend, lambda: reference.blend(fields, w), fields[0], fields, w, None)


def _blend_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    fields, weights, ctx.numbers = inputs
    ctx.count = len(fields)
    # The fields are needed only for the gradient of the weights; otherwise they need not stay alive.
    ctx.learn_weights = weights is not None and weights.requires_grad
    ctx.save_for_backward(weights, *(fields if ctx.learn_weights else ()))


def _blend_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    weights, *fields = ctx.saved_tensors
    shape = (-1, *(1,) * (grad.ndim - 1))
    each = ctx.numbers if weights is None else [weights[..., k].reshape(shape) for k in range(ctx.count)]
    to_weights = None
    if ctx.learn_weights:
        wide = grad.to(compute_dtype(grad))
        dots = [(wide * field.to(wide.dtype)).reshape(grad.shape[0], -1).sum(1) for field in fields]
        stacked = torch.stack(dots, dim=1)
        to_weights = (stacked if weights.ndim == 2 else stacked.sum(0)).to(weights.dtype)
    return [grad_of(w, grad, grad.dtype) for w in each], to_weights, None


register(
    "blend(Tensor[] fields, Tensor? weights, float[]? numbers) -> Tensor",
    _blend,
    lambda fields, weights, numbers: like(fields[0]),
)
torch.library.register_autograd("danceopd::blend", _blend_backward, setup_context=_blend_setup, lib=LIBRARY)


def _route(fields: list[Tensor], index: Tensor) -> Tensor:
    fields, index = [field.contiguous() for field in fields], index.contiguous()
    return run(_native.route, lambda: reference.route(fields, index), fields[0], fields, index)


def _route_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.count = len(inputs[0])
    ctx.save_for_backward(inputs[1])


def _route_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    index = ctx.saved_tensors[0].reshape(-1, *(1,) * (grad.ndim - 1))
    return [torch.where(index == k, grad, 0.0) for k in range(ctx.count)], None


register("route(Tensor[] fields, Tensor index) -> Tensor", _route, lambda fields, index: like(fields[0]))
torch.library.register_autograd("danceopd::route", _route_backward, setup_context=_route_setup, lib=LIBRARY)


def blend_arguments(weights: Tensor | Sequence[float]) -> tuple[Tensor | None, list[float] | None]:
    """Checked weights as the op takes them."""
    return (weights, None) if isinstance(weights, Tensor) else (None, list(weights))
