"""What is timed: every op beside its rivals. A new op is one more `Entry`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from danceopd import ops
from opbench import rivals
from opbench.operands import SCALE, SIGMA, SIGMA_NEXT, SIGMA_PREVIOUS, WEIGHTS, Operands
from opbench.rivals import STEP

Form = Callable[[Operands], object]


@dataclass(frozen=True)
class Entry:
    """An op in each of its forms.

    Attributes:
        name: as in the table; the op's name, and behind a comma what is special.
        moves: tensors that have to be read or written once, whoever does it; the unit of GB/s.
        danceopd: the op.
        eager: see `rivals`.
        tuned: see `rivals`.
        into: the op with `out`, which is where tuned code has its result; None where it takes none.
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
    into: Form | None = None

    @property
    def op(self) -> str:
        """The name in `danceopd.ops`."""
        return self.name.split(",")[0]


TABLE = (
    Entry(
        "guide",
        moves=3,
        danceopd=lambda o: ops.guide(o.u, o.v, SCALE),
        eager=lambda o: o.u + SCALE * (o.v - o.u),
        tuned=lambda o: torch.lerp(o.u, o.v, SCALE, out=o.out),
        into=lambda o: ops.guide(o.u, o.v, SCALE, out=o.out),
    ),
    Entry(
        "euler_step",
        moves=3,
        danceopd=lambda o: ops.euler_step(o.x, o.v, SIGMA, SIGMA_NEXT),
        eager=lambda o: (o.x.float() + STEP * o.v).to(o.v.dtype),
        tuned=lambda o: o.x.add_(o.v, alpha=STEP),
        into=lambda o: ops.euler_step(o.x, o.v, SIGMA, SIGMA_NEXT, out=o.x),
    ),
    Entry(
        "euler_step, guided",
        moves=4,
        danceopd=lambda o: ops.euler_step(o.x, o.v, SIGMA, SIGMA_NEXT, uncond=o.u, guidance_scale=SCALE),
        eager=lambda o: (o.x.float() + STEP * (o.u + SCALE * (o.v - o.u))).to(o.v.dtype),
        tuned=rivals.tuned_guided_step,
        into=lambda o: ops.euler_step(o.x, o.v, SIGMA, SIGMA_NEXT, uncond=o.u, guidance_scale=SCALE, out=o.x),
    ),
    Entry(
        "heun_step",
        moves=4,
        danceopd=lambda o: ops.heun_step(o.x, o.v, o.u, SIGMA, SIGMA_NEXT),
        eager=lambda o: (o.x.float() + STEP * (0.5 * (o.v + o.u))).to(o.v.dtype),
        tuned=rivals.tuned_heun,
        into=lambda o: ops.heun_step(o.x, o.v, o.u, SIGMA, SIGMA_NEXT, out=o.x),
    ),
    Entry(
        "ab2_step",
        moves=4,
        danceopd=lambda o: ops.ab2_step(o.x, o.v, o.u, SIGMA_PREVIOUS, SIGMA, SIGMA_NEXT),
        eager=rivals.eager_ab2,
        tuned=rivals.tuned_ab2,
        into=lambda o: ops.ab2_step(o.x, o.v, o.u, SIGMA_PREVIOUS, SIGMA, SIGMA_NEXT, out=o.x),
    ),
    Entry(
        "dpmpp_2m_step",
        moves=5,
        danceopd=lambda o: ops.dpmpp_2m_step(o.x, o.v, o.u, SIGMA_PREVIOUS, SIGMA, SIGMA_NEXT),
        eager=rivals.eager_dpmpp_2m,
        tuned=rivals.tuned_dpmpp_2m,
    ),
    Entry(
        "sde_step, noise given",
        moves=5,
        danceopd=lambda o: ops.sde_step(o.x, o.v, SIGMA, SIGMA_NEXT, noise=o.u),
        eager=rivals.eager_sde,
        tuned=rivals.tuned_sde,
    ),
    Entry(
        "sde_step, own noise",
        moves=4,
        danceopd=lambda o: ops.sde_step(o.x, o.v, SIGMA, SIGMA_NEXT, seed=0),
        eager=rivals.eager_sde_drawn,
        tuned=rivals.tuned_sde_drawn,
    ),
    Entry(
        "add_noise",
        moves=3,
        danceopd=lambda o: ops.add_noise(o.x, o.v, SIGMA),
        eager=lambda o: SIGMA * o.v + (1.0 - SIGMA) * o.x,
        tuned=lambda o: torch.lerp(o.x, o.v, SIGMA, out=o.out),
        into=lambda o: ops.add_noise(o.x, o.v, SIGMA, out=o.out),
    ),
    Entry(
        "blend",
        moves=4,
        danceopd=lambda o: ops.blend([o.x, o.v, o.u], WEIGHTS),
        eager=lambda o: WEIGHTS[0] * o.x + WEIGHTS[1] * o.v + WEIGHTS[2] * o.u,
        tuned=rivals.tuned_blend,
        into=lambda o: ops.blend([o.x, o.v, o.u], WEIGHTS, out=o.out),
    ),
    Entry(
        "route",
        moves=2,
        danceopd=lambda o: ops.route([o.x, o.v, o.u], o.index),
        eager=rivals.eager_route,
        tuned=rivals.tuned_route,
    ),
    Entry(
        "velocity_mse",
        moves=2,
        danceopd=lambda o: ops.velocity_mse(o.x, o.v),
        eager=lambda o: rivals.mse(o.x, o.v),
        tuned=rivals.tuned_mse,
    ),
    Entry(
        "velocity_mse, with backward",
        moves=3,
        danceopd=lambda o: rivals.backward(ops.velocity_mse, o),
        eager=lambda o: rivals.backward(rivals.mse, o),
        tuned=rivals.tuned_mse_backward,
        compiled=rivals.compiled_mse_backward,
        grad=True,
    ),
    Entry(
        "velocity_mse_with_grad",
        moves=3,
        danceopd=lambda o: ops.velocity_mse_with_grad(o.x, o.v),
        eager=lambda o: rivals.backward(rivals.mse, o),
        tuned=rivals.tuned_mse_each_backward,
        compiled=lambda compiler: compiler(rivals.mse_by_hand),
        grad=True,
    ),
    Entry(
        "transition_kl",
        moves=2,
        danceopd=lambda o: ops.transition_kl(o.x, o.v, rivals.STD),
        eager=lambda o: (o.x.float() - o.v.float()).square().mean(1) / (2 * rivals.STD**2),
        tuned=lambda o: rivals.tuned_mse_each(o, 1 / (2 * rivals.STD**2)),
    ),
    Entry(
        "policy_loss",
        moves=3,
        danceopd=lambda o: ops.policy_loss(o.x, o.v, o.u),
        eager=lambda o: rivals.policy(o.x, o.v, o.u),
        tuned=rivals.tuned_policy,
    ),
    Entry(
        "policy_loss, with backward",
        moves=4,
        danceopd=lambda o: rivals.policy_backward(ops.policy_loss, o),
        eager=lambda o: rivals.policy_backward(rivals.policy, o),
        tuned=rivals.tuned_policy_backward,
        compiled=rivals.compiled_policy_backward,
        grad=True,
    ),
)
