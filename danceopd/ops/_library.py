"""The ops as torch knows them, `torch.ops.danceopd.*`: schema, kernels, fake result and autograd, together.

A coefficient travels as a pair: `sigma` is the float, unless `sigma_each` holds one value per sample.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch

from danceopd.ops import _native, reference
from danceopd.ops._masks import lay_out
from danceopd.ops.reference import compute_dtype, per_sample

_LIBRARY = torch.library.Library("danceopd", "DEF")

Tensor = torch.Tensor
Pick = float | Tensor


def _pick(number: float, each: Tensor | None) -> Pick:
    return number if each is None else each.contiguous()


def _register(schema: str, kernel: Callable[..., Any], fake: Callable[..., Any]) -> None:
    name = schema.split("(")[0]
    _LIBRARY.define(schema, tags=(torch.Tag.needs_fixed_stride_order, torch.Tag.pt2_compliant_tag))
    for key in ("CPU", "CUDA"):
        _LIBRARY.impl(name, kernel, key)
    torch.library.register_fake(f"danceopd::{name}", fake, lib=_LIBRARY)


@cache
def _warn_once(device: torch.device) -> None:
    problem = _native.build_info()["cuda_problem"] or "its compute capability is below 7.5"
    warnings.warn(f"danceopd's kernels do not run on {device} ({problem}); plain torch does.", stacklevel=3)


def _run(call: Callable[..., Any], twin: Callable[[], Any], first: Tensor, *args: object) -> Any:
    """The native kernel; the twin for CUDA tensors without one (float64, or a device it cannot run on)."""
    result = call(True, *args)
    if result is not None:
        return result
    if first.device.type == "cuda":
        served = _native.serves(first.device)
        if not served:
            _warn_once(first.device)
        if not served or first.dtype == torch.float64:
            return twin()
    raise TypeError(
        "The operands of a danceopd op must be plain, non-empty tensors of equal shape on one device."
    )


def _like(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


def _grad(coefficient: Pick, grad: Tensor, out: Tensor | torch.dtype) -> Tensor:
    """Coefficient * grad in the dtype of the maths, rounded to the input's dtype."""
    wide = grad.to(compute_dtype(grad))
    factor = coefficient.to(wide.dtype) if isinstance(coefficient, Tensor) else coefficient
    return (factor * wide).to(out if isinstance(out, torch.dtype) else out.dtype)


# -- guide ---------------------------------------------------------------------------------------------------


def _guide(uncond: Tensor, cond: Tensor, scale: float, scale_each: Tensor | None) -> Tensor:
    uncond, cond, s = uncond.contiguous(), cond.contiguous(), _pick(scale, scale_each)
    return _run(_native.guide, lambda: reference.guide(uncond, cond, s), uncond, uncond, cond, s)


def _guide_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, _, ctx.scale, each = inputs
    ctx.save_for_backward(each)


def _guide_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    s = per_sample((ctx.scale, ctx.saved_tensors[0]), grad)
    return _grad(1.0 - s, grad, grad), _grad(s, grad, grad), None, None


_register(
    "guide(Tensor uncond, Tensor cond, float scale, Tensor? scale_each) -> Tensor",
    _guide,
    lambda uncond, cond, scale, scale_each: _like(uncond),
)
torch.library.register_autograd("danceopd::guide", _guide_backward, setup_context=_guide_setup, lib=_LIBRARY)


# -- euler_step ----------------------------------------------------------------------------------------------


def _euler_step(
    sample: Tensor,
    velocity: Tensor,
    uncond: Tensor | None,
    sigma: float,
    sigma_each: Tensor | None,
    sigma_next: float,
    sigma_next_each: Tensor | None,
    scale: float,
    scale_each: Tensor | None,
) -> Tensor:
    sample, velocity = sample.contiguous(), velocity.contiguous()
    uncond = None if uncond is None else uncond.contiguous()
    now, then, s = _pick(sigma, sigma_each), _pick(sigma_next, sigma_next_each), _pick(scale, scale_each)

    def twin() -> Tensor:
        return reference.euler_step(sample, velocity, now, then, uncond=uncond, guidance_scale=s)

    return _run(_native.euler_step, twin, sample, sample, velocity, now, then, uncond, s)


def _euler_step_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, velocity, uncond, ctx.sigma, now, ctx.sigma_next, then, ctx.scale, scale = inputs
    ctx.velocity_dtype, ctx.uncond_dtype = velocity.dtype, None if uncond is None else uncond.dtype
    ctx.save_for_backward(now, then, scale)


def _euler_step_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    now, then, scale = ctx.saved_tensors
    step = per_sample((ctx.sigma_next, then), grad) - per_sample((ctx.sigma, now), grad)
    rest = (None,) * 6
    if ctx.uncond_dtype is None:
        return grad, _grad(step, grad, ctx.velocity_dtype), None, *rest
    s = per_sample((ctx.scale, scale), grad)
    to_velocity, to_uncond = step * s, step * (1.0 - s)
    return grad, _grad(to_velocity, grad, ctx.velocity_dtype), _grad(to_uncond, grad, ctx.uncond_dtype), *rest


_register(
    "euler_step(Tensor sample, Tensor velocity, Tensor? uncond, float sigma, Tensor? sigma_each, "
    "float sigma_next, Tensor? sigma_next_each, float scale, Tensor? scale_each) -> Tensor",
    _euler_step,
    lambda sample, *_: _like(sample),
)
torch.library.register_autograd(
    "danceopd::euler_step", _euler_step_backward, setup_context=_euler_step_setup, lib=_LIBRARY
)


# -- add_noise -----------------------------------------------------------------------------------------------


def _add_noise(clean: Tensor, noise: Tensor, sigma: float, sigma_each: Tensor | None) -> Tensor:
    clean, noise, s = clean.contiguous(), noise.contiguous(), _pick(sigma, sigma_each)
    return _run(_native.add_noise, lambda: reference.add_noise(clean, noise, s), clean, clean, noise, s)


def _add_noise_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, noise, ctx.sigma, each = inputs
    ctx.noise_dtype = noise.dtype
    ctx.save_for_backward(each)


def _add_noise_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    s = per_sample((ctx.sigma, ctx.saved_tensors[0]), grad)
    return _grad(1.0 - s, grad, grad), _grad(s, grad, ctx.noise_dtype), None, None


_register(
    "add_noise(Tensor clean, Tensor noise, float sigma, Tensor? sigma_each) -> Tensor",
    _add_noise,
    lambda clean, *_: _like(clean),
)
torch.library.register_autograd(
    "danceopd::add_noise", _add_noise_backward, setup_context=_add_noise_setup, lib=_LIBRARY
)


# -- blend ---------------------------------------------------------------------------------------------------


def _blend(fields: list[Tensor], weights: Tensor | None, numbers: list[float] | None) -> Tensor:
    fields = [field.contiguous() for field in fields]
    w = list(numbers or ()) if weights is None else weights.contiguous()
    return _run(_native.blend, lambda: reference.blend(fields, w), fields[0], fields, w)


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
    return [_grad(w, grad, grad) for w in each], to_weights, None


_register(
    "blend(Tensor[] fields, Tensor? weights, float[]? numbers) -> Tensor",
    _blend,
    lambda fields, weights, numbers: _like(fields[0]),
)
torch.library.register_autograd("danceopd::blend", _blend_backward, setup_context=_blend_setup, lib=_LIBRARY)


# -- route ---------------------------------------------------------------------------------------------------


def _route(fields: list[Tensor], index: Tensor) -> Tensor:
    fields, index = [field.contiguous() for field in fields], index.contiguous()
    return _run(_native.route, lambda: reference.route(fields, index), fields[0], fields, index)


def _route_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.count = len(inputs[0])
    ctx.save_for_backward(inputs[1])


def _route_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    index = ctx.saved_tensors[0].reshape(-1, *(1,) * (grad.ndim - 1))
    return [torch.where(index == k, grad, 0.0) for k in range(ctx.count)], None


_register("route(Tensor[] fields, Tensor index) -> Tensor", _route, lambda fields, index: _like(fields[0]))
torch.library.register_autograd("danceopd::route", _route_backward, setup_context=_route_setup, lib=_LIBRARY)


# -- velocity_mse --------------------------------------------------------------------------------------------

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
    grad_scale: float,
    want_grad: bool,
) -> tuple[Tensor, Tensor | None]:
    student, teacher = student.contiguous(), teacher.contiguous()
    uncond = None if uncond is None else uncond.contiguous()
    s, w = _pick(scale, scale_each), _pick(weight, weight_each)
    mask, *layout = lay_out(mask, student)

    def twin() -> tuple[Tensor, Tensor]:
        return reference.velocity_mse_with_grad(
            student, teacher, uncond=uncond, guidance_scale=s, weight=w, mask=mask, grad_scale=grad_scale
        )

    args = (student, teacher, uncond, s, w, mask, *layout, float(grad_scale), True if want_grad else None)
    return _run(_native.velocity_mse, twin, student, *args)


def _velocity_mse(*args: Any) -> Tensor:
    loss, _ = _mse(*args, grad_scale=1.0, want_grad=False)
    return loss


def _velocity_mse_with_grad(*args: Any) -> tuple[Tensor, Tensor | None]:
    return _mse(*args[:-1], grad_scale=args[-1], want_grad=True)


def _fake_loss(student: Tensor, *_: Any) -> Tensor:
    return student.new_empty((student.shape[0],), dtype=compute_dtype(student))


def _velocity_mse_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    student, teacher, uncond, ctx.scale, scale, ctx.weight, weight, mask = inputs
    ctx.save_for_backward(student, teacher, uncond, scale, weight, mask)


def _velocity_mse_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    """Read student and teacher again: that needs no memory of its own and rounds the gradient only once."""
    student, teacher, uncond, scale, weight, mask = ctx.saved_tensors
    # The kernel's gradient is that of the mean over samples; undo that mean and weigh with the incoming
    # gradient.
    w = grad * student.shape[0] * (ctx.weight if weight is None else weight)
    _, to_student = torch.ops.danceopd.velocity_mse_with_grad(
        student, teacher, uncond, ctx.scale, scale, 1.0, w, mask, 1.0
    )
    return to_student, *(None,) * 7


def _once(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
    raise RuntimeError(
        "velocity_mse is differentiable once; use danceopd.ops.reference for second derivatives."
    )


_register(f"velocity_mse({_MSE_ARGUMENTS}) -> Tensor", _velocity_mse, _fake_loss)
_register(
    f"velocity_mse_with_grad({_MSE_ARGUMENTS}, float grad_scale) -> (Tensor, Tensor)",
    _velocity_mse_with_grad,
    lambda student, *rest: (_fake_loss(student), _like(student)),
)
torch.library.register_autograd(
    "danceopd::velocity_mse", _velocity_mse_backward, setup_context=_velocity_mse_setup, lib=_LIBRARY
)
torch.library.register_autograd("danceopd::velocity_mse_with_grad", _once, lib=_LIBRARY)


def blend_arguments(weights: Tensor | Sequence[float]) -> tuple[Tensor | None, list[float] | None]:
    """Checked weights as the op takes them."""
    return (weights, None) if isinstance(weights, Tensor) else (None, list(weights))
