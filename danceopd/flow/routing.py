"""Hard routes: every sample of a batch follows one field."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from danceopd.flow.conditions import Condition
from danceopd.flow.fields import VelocityField, velocity_of
from danceopd.flow.transfer import upload


def route_probabilities(weights: Sequence[float]) -> tuple[float, ...]:
    """The routing law pi: `weights` divided by their sum.

    Args:
        weights: one finite number >= 0 per route, not all 0; a route of weight 0 is never taken.
    """
    total = math.fsum(weights)
    if not (math.isfinite(total) and total > 0.0 and min(weights) >= 0.0):
        raise ValueError(
            f"weights must be finite, >= 0 and not all 0, but got {list(weights)}; use 1.0 for equal routes."
        )
    return tuple(weight / total for weight in weights)


def routed_velocity(
    fields: Sequence[VelocityField],
    index: Tensor,
    sample: Tensor,
    sigma: Tensor,
    condition: Condition,
    *,
    names: Sequence[str] | None = None,
) -> Tensor:
    """Velocity of sample b under ``fields[index[b]]``, with one call per field that is present.

    Rows are grouped by field, each group is one batch, and the results return to their places. A row's
    velocity is the one that its field gives alone, up to the rounding of a larger batch.

    Args:
        fields: K fields; routes that share one field object share its call.
        index: int64 [B], each in 0 .. K - 1.
        sample: [B, ...].
        sigma: fp32 [B].
        condition: B samples.
        names: what messages call the fields; fields[k] when None.

    Returns:
        [B, ...] in the fields' dtype.

    Raises:
        TypeError, ValueError: as `velocity_of`, which names the field; or `index` does not fit.
    """
    index = index.cpu()
    names = [f"fields[{k}]" for k in range(len(fields))] if names is None else names
    batch = sample.shape[0]
    if index.shape != (batch,):
        raise ValueError(
            f"index must have shape [{batch}], but got {list(index.shape)}; one route per sample."
        )
    if batch == 0 or int(index.min()) < 0 or int(index.max()) >= len(fields):
        raise ValueError(
            f"index must hold at least one route, each in 0 .. {len(fields) - 1}, but got {index.tolist()}; "
            "it counts the fields."
        )
    same = torch.tensor([next(j for j, other in enumerate(fields) if other is field) for field in fields])
    index = same[index]
    if bool((index == index[0]).all()):
        only = int(index[0])
        return velocity_of(fields[only], names[only], sample, sigma, condition)

    order = torch.argsort(index, stable=True)
    groups = order.split(torch.bincount(index, minlength=len(fields)).tolist())
    velocities = []
    for field, name, rows in zip(fields, names, groups, strict=True):
        if len(rows):
            there = upload(rows, sample.device)
            velocities.append(velocity_of(field, name, sample[there], sigma[there], condition.take(rows)))
    return torch.cat(velocities)[upload(torch.argsort(order), sample.device)]
