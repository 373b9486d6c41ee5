"""Velocity fields: what can be distilled, rolled out and sampled."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from danceopd import ops
from danceopd.flow.conditions import Condition
from danceopd.flow.transfer import upload

Predict = Callable[[Any, Tensor, Tensor, Any], Tensor]
"""``predict(model, sample, sigma, condition) -> velocity``: one family's model under the sigma contract."""


Combine = Callable[[Tensor, Tensor, float], Tensor]
"""``combine(uncond, cond, scale) -> velocity``: what classifier-free guidance makes of its two branches."""


class VelocityField(Protocol):
    """A velocity over the flow state space, v(x, sigma, c)."""

    def __call__(self, sample: Tensor, sigma: Tensor, condition: Any) -> Tensor:
        """Velocity [B, ...] at `sample` [B, ...], `sigma` (fp32 [B], 0 .. 1) and `condition` (B samples).

        A rollout writes the next state over `sample`, so the velocity is no rearranged view of it.
        """
        ...


@dataclass(frozen=True)
class ModelField:
    """The velocity field of one model.

    Args:
        model: the network; its train or eval mode and its gradients are left as they are.
        predict: the family's way of calling it.
    """

    model: nn.Module
    predict: Predict

    def __call__(self, sample: Tensor, sigma: Tensor, condition: Any) -> Tensor:
        """Velocity [B, ...] of the model; see `VelocityField`."""
        return self.predict(self.model, sample, sigma, condition)


@dataclass(frozen=True)
class GuidedField:
    """Classifier-free guidance as a field of its own: ``v_uncond + scale * (v_cond - v_uncond)``.

    Both branches run as one forward of twice the batch. As a teacher it lets the student absorb guidance;
    around a student that has absorbed some, the two scales roughly multiply (arXiv 2606.27377).

    Args:
        field: the field to guide.
        scale: 1 is the plain conditional field and costs one forward of the batch itself.
        combine: ``combine(uncond, cond, scale) -> velocity`` of a family whose guidance is not this formula.
    """

    field: VelocityField
    scale: float
    combine: Combine = ops.guide

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale):
            raise ValueError(f"scale must be a finite number, but got {self.scale}; use 1.0 for no guidance.")

    def branches(self, sample: Tensor, sigma: Tensor, condition: Condition) -> tuple[Tensor, Tensor | None]:
        """Conditional and unconditional velocity (None at scale 1), for kernels that fold guidance in."""
        if self.scale == 1.0:
            return self.field(sample, sigma, condition), None
        both = self.field(
            torch.cat([sample, sample]),
            torch.cat([sigma, sigma]),
            condition.concat(condition.unconditional()),
        )
        cond, uncond = both.chunk(2)
        return cond, uncond

    def __call__(self, sample: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """Guided velocity [B, ...]; see `VelocityField`."""
        cond, uncond = self.branches(sample, sigma, condition)
        return cond if uncond is None else self.combine(uncond, cond, self.scale)

    @property
    def is_linear(self) -> bool:
        """Whether guidance may be folded into a linear step or loss."""
        return self.combine is ops.guide


@dataclass(frozen=True)
class MixtureField:
    """The weighted sum of several fields, ``sum_k w_k v_k``: the soft target that DanceOPD's routes replace.

    Args:
        fields: K fields over the same state space.
        weights: K finite numbers, used as they are: a mean needs weights that sum to 1.
    """

    fields: Sequence[VelocityField]
    weights: Sequence[float]

    def __post_init__(self) -> None:
        if not self.fields or len(self.fields) != len(self.weights):
            raise ValueError(
                f"weights must hold one number per field, but got {len(self.weights)} weights for "
                f"{len(self.fields)} fields; pass as many as there are fields (at least one)."
            )
        if not all(math.isfinite(weight) for weight in self.weights):
            raise ValueError(f"weights must be finite, but got {list(self.weights)}; replace the bad entry.")

    def __call__(self, sample: Tensor, sigma: Tensor, condition: Any) -> Tensor:
        """Weighted velocity [B, ...]; see `VelocityField`."""
        velocities = [field(sample, sigma, condition) for field in self.fields]
        weights = upload(torch.tensor(self.weights, dtype=torch.float32), sample.device)
        return ops.blend(velocities, weights)
