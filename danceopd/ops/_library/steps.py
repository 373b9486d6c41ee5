"""The steps as torch knows them. All are linear in their tensors, so one rule differentiates them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from danceopd.ops import _coefficients, _native, reference
from danceopd.ops._arithmetic import compute_dtype, per_sample
from danceopd.ops._library.base import LIBRARY, Pick, grad_of, like, pick, register, run

Tensor = torch.Tensor
# From the coefficients' values: for each result, what each tensor is multiplied with.
Rule = Callable[..., Sequence[Sequence[Pick]]]


def _register_step(
    name: str, tensors: Sequence[str], numbers: Sequence[str], rule: Rule, outputs: int = 1
) -> None:
    """Register one step with the arguments of its twin in `reference`; a "?" marks what may be None."""
    schema = [f"Tensor? {t[:-1]}" if t.endswith("?") else f"Tensor {t}" for t in tensors]
    schema += [f"float {n}, Tensor? {n}_each" for n in numbers]
    names = [*(t.removesuffix("?") for t in tensors), *numbers]
    count = len(tensors)
    native, twin = getattr(_native, name), getattr(reference, name)

    def kernel(*args: Any) -> Any:
        given: list[Any] = [None if t is None else t.contiguous() for t in args[:count]]
        given += [
            pick(number, each) for number, each in zip(args[count::2], args[count + 1 :: 2], strict=True)
        ]
        fresh = () if outputs > 1 else (None,)  # the argument `out` of the extension's calls
        return run(native, lambda: twin(**dict(zip(names, given, strict=True))), given[0], *given, *fresh)

    def fake(first: Tensor, *_: Any) -> Any:
        return like(first) if outputs == 1 else tuple(like(first) for _ in range(outputs))

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.dtypes = [None if t is None else t.dtype for t in inputs[:count]]
        ctx.numbers = inputs[count::2]
        ctx.save_for_backward(*inputs[count + 1 :: 2])
        ctx.set_materialize_grads(False)

    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        some = next((g for g in grads if g is not None), None)
        if some is None:
            return (None,) * (count + 2 * len(numbers))
        values = [per_sample(each, some) for each in zip(ctx.numbers, ctx.saved_tensors, strict=True)]
        rows = rule(*values, given=[dtype is not None for dtype in ctx.dtypes])
        result: list[Tensor | None] = []
        for k, dtype in enumerate(ctx.dtypes):
            parts = [(row[k], g) for row, g in zip(rows, grads, strict=True) if g is not None]
            if dtype is None or not ctx.needs_input_grad[k]:
                result.append(None)
            elif len(parts) == 1:
                result.append(grad_of(*parts[0], dtype))
            else:  # added before they are rounded
                wide = compute_dtype(some)
                result.append(sum(grad_of(c, g, wide) for c, g in parts).to(dtype))  # type: ignore[union-attr]
        return *result, *(None,) * (2 * len(numbers))

    register(
        f"{name}({', '.join(schema)}) -> {'Tensor' if outputs == 1 else '(Tensor, Tensor)'}", kernel, fake
    )
    torch.library.register_autograd(f"danceopd::{name}", backward, setup_context=setup, lib=LIBRARY)


def _guided(velocity: Pick, scale: Pick, given: bool) -> tuple[Pick, Pick]:
    """What the velocity and the unconditional velocity are multiplied with."""
    return (velocity * scale, velocity * (1.0 - scale)) if given else (velocity, 0.0)


def _guide(scale: Pick, given: list[bool]) -> list[list[Pick]]:
    return [[1.0 - scale, scale]]


def _euler(sigma: Pick, sigma_next: Pick, scale: Pick, given: list[bool]) -> list[list[Pick]]:
    return [[1.0, *_guided(sigma_next - sigma, scale, given[2])]]


def _heun(sigma: Pick, sigma_next: Pick, given: list[bool]) -> list[list[Pick]]:
    half = 0.5 * (sigma_next - sigma)
    return [[1.0, half, half]]


def _ab2(before: Pick, sigma: Pick, sigma_next: Pick, scale: Pick, given: list[bool]) -> list[list[Pick]]:
    velocity, previous = _coefficients.ab2(before, sigma, sigma_next)
    to_velocity, to_uncond = _guided(velocity, scale, given[3])
    return [[1.0, to_velocity, previous, to_uncond]]


def _dpmpp_2m(before: Pick, sigma: Pick, sigma_next: Pick, given: list[bool]) -> list[list[Pick]]:
    k: Pick = _coefficients.dpmpp_2m(before, sigma, sigma_next) if given[2] else 0.0
    return [[1.0 + k, sigma_next - sigma - k * sigma, -k], [1.0, -sigma, 0.0]]


def _add_noise(sigma: Pick, given: list[bool]) -> list[list[Pick]]:
    return [[1.0 - sigma, sigma]]


_register_step("guide", ["uncond", "cond"], ["scale"], _guide)
_register_step(
    "euler_step", ["sample", "velocity", "uncond?"], ["sigma", "sigma_next", "guidance_scale"], _euler
)
_register_step("heun_step", ["sample", "velocity", "velocity_next"], ["sigma", "sigma_next"], _heun)
_register_step(
    "ab2_step",
    ["sample", "velocity", "velocity_previous", "uncond?"],
    ["sigma_previous", "sigma", "sigma_next", "guidance_scale"],
    _ab2,
)
_register_step(
    "dpmpp_2m_step",
    ["sample", "velocity", "clean_previous?"],
    ["sigma_previous", "sigma", "sigma_next"],
    _dpmpp_2m,
    outputs=2,
)
_register_step("add_noise", ["clean", "noise"], ["sigma"], _add_noise)
