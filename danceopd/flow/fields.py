"""Velocity fields: what can be distilled, rolled out and sampled."""

from __future__ import annotations

import inspect
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

        A field writes to neither `sample` nor `sigma`, which whoever asked goes on with; it is refused where
        it does. It may return `sample` itself, or a view of it.
        """
        ...


def check_takes_samples(field: object, name: str) -> None:
    """See that a field can be called as `VelocityField` is.

    Args:
        field: to look at; it is not called.
        name: what messages call it.

    Raises:
        TypeError: it cannot be called, or not with three arguments.
    """
    if isinstance(field, type) or not callable(field):
        raise TypeError(
            f"{name} must be a callable of (sample, sigma, condition), but got {_shown(field)}; give one."
        )
    try:
        signature = inspect.signature(field.forward if isinstance(field, nn.Module) else field)
    except ValueError:  # compiled code may not tell
        return
    try:
        signature.bind(None, None, None)
    except TypeError:
        raise TypeError(
            f"{name} must take (sample, sigma, condition), but it takes {signature}; wrap it in a function "
            "that does."
        ) from None


def velocity_of(field: VelocityField, name: str, sample: Tensor, sigma: Tensor, condition: Any) -> Tensor:
    """What `field` returns, which is sure to be a velocity of `sample`, and `sample` to be as it was.

    Args:
        field: to ask.
        name: what messages call it.
        sample: [B, ...].
        sigma: fp32 [B].
        condition: B samples.

    Raises:
        TypeError: it returned no tensor, or one whose dtype no op takes beside `sample`.
        ValueError: the tensor is of another shape or on another device, or the field wrote to what it was
            called with.
    """
    given = {"sample": sample, "sigma": sigma}
    versions = {key: _version(tensor) for key, tensor in given.items()}
    velocity = field(sample, sigma, condition)
    for key, tensor in given.items():
        if _version(tensor) != versions[key]:
            raise ValueError(
                f"{name} wrote in place to the {key} that it was given, which its caller goes on with; "
                f"let it work on {key}.clone(), or leave out operations that end in '_'."
            )
    if not isinstance(velocity, Tensor):
        raise TypeError(f"{name} returned {_shown(velocity)} in place of a velocity; return a tensor.")
    is_wide, are_wide = (tensor.dtype == torch.float64 for tensor in (velocity, sample))
    if not velocity.is_floating_point() or is_wide != are_wide:
        raise TypeError(
            f"{name} returned a velocity of {velocity.dtype} for samples of {sample.dtype}; compute it in "
            "theirs, or convert it."
        )
    if velocity.shape != sample.shape:
        raise ValueError(
            f"{name} returned a velocity of shape {list(velocity.shape)} for samples of shape "
            f"{list(sample.shape)}; return one of the samples' shape."
        )
    if velocity.device != sample.device:
        raise ValueError(
            f"{name} returned a velocity on {velocity.device} for samples on {sample.device}; move it there."
        )
    return velocity


def _version(tensor: Tensor) -> int:
    """Counts what was written in place; tensors of inference mode do not count, and compilers cannot ask."""
    return 0 if torch.compiler.is_compiling() or tensor.is_inference() else tensor._version


def _shown(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


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
        both = velocity_of(
            self.field,
            "the field under guidance",
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
        velocities = [
            velocity_of(field, f"fields[{k}]", sample, sigma, condition)
            for k, field in enumerate(self.fields)
        ]
        weights = upload(torch.tensor(self.weights, dtype=torch.float32), sample.device)
        return ops.blend(velocities, weights)
