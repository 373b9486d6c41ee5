"""What is timed: every op on its operands, and its rivals. A new op is one more `Entry`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from danceopd import ops

Tensor = torch.Tensor

BATCH = 4
SIGMA, SIGMA_NEXT, SCALE, WEIGHTS = 0.8, 0.7, 4.5, (0.2, 0.3, 0.5)
STEP = SIGMA_NEXT - SIGMA


class Operands(NamedTuple):
    """Tensors of one size and dtype, [B, n]; `out` and `spare` are what tuned code writes into."""

    x: Tensor  # sample, student or clean data
    v: Tensor  # velocity, teacher or noise
    u: Tensor  # velocity without the condition
    out: Tensor
    spare: Tensor
    index: Tensor  # of the fields (x, v, u), [B]
    rows: Tensor  # 0 .. B - 1


Form = Callable[[Operands], object]


@dataclass(frozen=True)
class Entry:
    """An op in each of its forms.

    Attributes:
        name: as in the table.
        moves: tensors that have to be read or written once, whoever does it; the unit of GB/s.
        danceopd: the op.
        eager: as a pipeline, scheduler or trainer writes it.
        tuned: as a careful author writes it without kernels: fused torch calls, preallocated results.
        compiled: makes the form for torch.compile from a compiler; that of `eager` when not given.
        grad: whether the forms need autograd.
    """

    name: str
    moves: int
    danceopd: Form
    eager: Form
    tuned: Form
    compiled: Callable[[Callable[[Any], Any]], Form] | None = None
    grad: bool = False


def make_operands(count: int, size: int, dtype: torch.dtype, device: torch.device) -> list[Operands]:
    """`count` sets of operands of `size` bytes each; the sets lie behind each other in memory."""
    elements = max(1, size // dtype.itemsize)
    batch = min(BATCH, elements)
    shape = (count, batch, max(1, elements // batch))
    generator = torch.Generator(device).manual_seed(0)
    values = [torch.randn(shape, generator=generator, device=device, dtype=dtype) for _ in range(3)]
    results = [torch.empty(shape, device=device, dtype=dtype) for _ in range(2)]
    rows = torch.arange(batch, device=device)
    return [Operands(*(t[i] for t in values), *(t[i] for t in results), rows % 3, rows) for i in range(count)]


def _tuned_guided_step(o: Operands) -> Tensor:
    torch.lerp(o.u, o.v, SCALE, out=o.spare)
    return torch.add(o.x, o.spare, alpha=STEP, out=o.out)


def _tuned_blend(o: Operands) -> Tensor:
    w0, w1, w2 = WEIGHTS
    return torch.mul(o.x, w0, out=o.out).add_(o.v, alpha=w1).add_(o.u, alpha=w2)


def _tuned_route(o: Operands) -> Tensor:
    index = o.index.view(-1, 1)
    return torch.where(index == 0, o.x, torch.where(index == 1, o.v, o.u), out=o.out)


# -- the loss ------------------------------------------------------------------------------------------------


def _backward(loss: Callable[[Tensor, Tensor], Tensor], o: Operands) -> tuple[Tensor, Tensor]:
    student = o.x.detach().requires_grad_()
    value = loss(student, o.v)
    return value, torch.autograd.grad(value, student)[0]


def _mse(x: Tensor, v: Tensor) -> Tensor:
    return F.mse_loss(x.float(), v.float())


def _tuned_mse(o: Operands) -> Tensor:
    torch.sub(o.x, o.v, out=o.spare)
    return torch.linalg.vector_norm(o.spare, dtype=torch.float32).square_().div_(o.x.numel())


def _mse_each_by_hand(o: Operands) -> tuple[Tensor, Tensor]:
    error = o.x.float() - o.v.float()
    return error.square().mean(1), (error * (2 / o.x.numel())).to(o.x.dtype)


def _tuned_mse_each(o: Operands) -> tuple[Tensor, Tensor]:
    torch.sub(o.x, o.v, out=o.spare)
    each = torch.linalg.vector_norm(o.spare, dim=1, dtype=torch.float32).square_().div_(o.x.shape[1])
    return each, torch.mul(o.spare, 2 / o.x.numel(), out=o.out)


def _tuned_mse_backward(o: Operands) -> tuple[Tensor, Tensor]:
    return _tuned_mse(o), torch.mul(o.spare, 2 / o.x.numel(), out=o.out)


def _compiled_mse_backward(compiler: Callable[[Any], Any]) -> Form:
    loss = compiler(_mse)
    return lambda o: _backward(loss, o)


TABLE = (
    Entry(
        "guide",
        moves=3,
        danceopd=lambda o: ops.guide(o.u, o.v, SCALE),
        eager=lambda o: o.u + SCALE * (o.v - o.u),
        tuned=lambda o: torch.lerp(o.u, o.v, SCALE, out=o.out),
    ),
    Entry(
        "euler_step",
        moves=3,
        danceopd=lambda o: ops.euler_step(o.x, o.v, SIGMA, SIGMA_NEXT),
        eager=lambda o: (o.x.float() + STEP * o.v).to(o.v.dtype),
        tuned=lambda o: torch.add(o.x, o.v, alpha=STEP, out=o.out),
    ),
    Entry(
        "euler_step, guided",
        moves=4,
        danceopd=lambda o: ops.euler_step(o.x, o.v, SIGMA, SIGMA_NEXT, uncond=o.u, guidance_scale=SCALE),
        eager=lambda o: (o.x.float() + STEP * (o.u + SCALE * (o.v - o.u))).to(o.v.dtype),
        tuned=_tuned_guided_step,
    ),
    Entry(
        "add_noise",
        moves=3,
        danceopd=lambda o: ops.add_noise(o.x, o.v, SIGMA),
        eager=lambda o: SIGMA * o.v + (1.0 - SIGMA) * o.x,
        tuned=lambda o: torch.lerp(o.x, o.v, SIGMA, out=o.out),
    ),
    Entry(
        "blend",
        moves=4,
        danceopd=lambda o: ops.blend([o.x, o.v, o.u], WEIGHTS),
        eager=lambda o: WEIGHTS[0] * o.x + WEIGHTS[1] * o.v + WEIGHTS[2] * o.u,
        tuned=_tuned_blend,
    ),
    Entry(
        "route",
        moves=2,
        danceopd=lambda o: ops.route([o.x, o.v, o.u], o.index),
        eager=lambda o: torch.stack([o.x, o.v, o.u])[o.index, o.rows],
        tuned=_tuned_route,
    ),
    Entry(
        "velocity_mse",
        moves=2,
        danceopd=lambda o: ops.velocity_mse(o.x, o.v),
        eager=lambda o: _mse(o.x, o.v),
        tuned=_tuned_mse,
    ),
    Entry(
        "velocity_mse, with backward",
        moves=3,
        danceopd=lambda o: _backward(ops.velocity_mse, o),
        eager=lambda o: _backward(_mse, o),
        tuned=_tuned_mse_backward,
        compiled=_compiled_mse_backward,
        grad=True,
    ),
    Entry(
        "velocity_mse_with_grad",
        moves=3,
        danceopd=lambda o: ops.velocity_mse_with_grad(o.x, o.v),
        eager=lambda o: _backward(_mse, o),
        tuned=_tuned_mse_each,
        compiled=lambda compiler: compiler(_mse_each_by_hand),
        grad=True,
    ),
)
