"""How a field behaves: what wrong conventions change, measured without the weights or pictures of others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from danceopd.families import Family
from danceopd.flow import GuidedField, VelocityField, rollout
from danceopd.training.batch import PlannedBatch
from danceopd.training.check.fields import distance
from danceopd.training.check.probe import ProbeRows
from danceopd.training.check.report import Behaviour

_LEVELS: Final = (0.9, 0.5, 0.1)
_MIDDLE: Final = 0.5


class RouteProbe(NamedTuple):
    """Rows of one route, of one shape.

    Attributes:
        batch: as the trainer would see them.
        rows: the examples, in the same order.
    """

    batch: PlannedBatch
    rows: ProbeRows


@torch.no_grad()
def behaviour_of(family: Family, field: VelocityField, routes: Sequence[RouteProbe], seed: int) -> Behaviour:
    """Measure a frozen field without guidance on rows of its routes; other noise is drawn from `seed`."""
    first = routes[0].batch
    share, misses, speeds = _denoising(field, first, seed)
    prompted = [_change_with_prompt(field, batch) for batch, rows in routes if _have_prompts(rows)]
    edited = [_change_with_source(field, batch) for batch, rows in routes if _sources_differ(rows)]
    return Behaviour(
        alone=max(_alone(field, batch) for batch, _ in routes),
        guidance=_guidance_error(family.guided(field, 2.0), first),
        noise_share=share,
        misses=misses,
        speeds=speeds,
        time=_change_with_time(field, first),
        prompt=max(prompted, default=None),
        source=max(edited, default=None),
    )


def _alone(field: VelocityField, batch: PlannedBatch) -> float:
    """Two rows at two noise levels: each alone, beside both in one call."""
    noise = batch.batch.noise.float()
    sample = torch.stack([noise[0], -noise[-1]])  # two samples also where there is one row
    sigma = torch.tensor([0.9, 0.4], device=noise.device)
    condition = batch.batch.condition.take(torch.tensor([0, len(noise) - 1]))
    alone = [
        field(sample[row : row + 1], sigma[row : row + 1], condition.take(torch.tensor([row])))
        for row in range(2)
    ]
    return distance(torch.cat(alone).float(), field(sample, sigma, condition).float())


def _guidance_error(guided: VelocityField, batch: PlannedBatch) -> float | None:
    """Of the family's formula at scale 1, beside the conditional velocity."""
    if not isinstance(guided, GuidedField):
        return None
    noise = batch.batch.noise.float()
    cond, uncond = guided.branches(noise, _level(_MIDDLE, noise), batch.batch.condition)
    assert uncond is not None
    return distance(guided.combine(uncond, cond, 1.0).float(), cond.float())


def _denoising(
    field: VelocityField, batch: PlannedBatch, seed: int
) -> tuple[float, dict[float, float], dict[float, float]]:
    """Share of the noise in the velocity at pure noise; misses and speeds on own samples, noised anew."""
    noise, condition = batch.batch.noise.float(), batch.batch.condition
    start = field(noise, _level(1.0, noise), condition).double()
    share = float((start * noise).sum() / noise.double().square().sum())
    clean = rollout(field, noise, batch.grid, condition).sample
    other = torch.randn(noise.shape, generator=torch.Generator().manual_seed(seed)).to(noise.device)
    misses, speeds = {}, {}
    for level in _LEVELS:
        velocity = field((1.0 - level) * clean + level * other, _level(level, noise), condition).float()
        misses[level] = distance(velocity, other - clean)
        speeds[level] = float(velocity.double().square().mean().sqrt())
    return share, misses, speeds


def _change_with_time(field: VelocityField, batch: PlannedBatch) -> float:
    noise, condition = batch.batch.noise.float(), batch.batch.condition
    late, early = (field(noise, _level(level, noise), condition).float() for level in (0.1, 0.9))
    return distance(late, early)


def _change_with_prompt(field: VelocityField, batch: PlannedBatch) -> float:
    noise, condition = batch.batch.noise.float(), batch.batch.condition
    sigma = _level(_MIDDLE, noise)
    return distance(field(noise, sigma, condition.unconditional()), field(noise, sigma, condition))


def _change_with_source(field: VelocityField, batch: PlannedBatch) -> float:
    """One sample under the sources of the first and of the last row, and under no prompt."""
    noise = batch.batch.noise.float()
    condition = batch.batch.condition.unconditional().take(torch.tensor([0, len(noise) - 1]))
    one, other = field(noise[:1].expand_as(noise[:2]), _level(_MIDDLE, noise[:2]), condition).float()
    return distance(other, one)


def _have_prompts(rows: ProbeRows) -> bool:
    return any(rows[row].prompt.strip() for row in range(len(rows)))


def _sources_differ(rows: ProbeRows) -> bool:
    first, last = rows[0].sources, rows[len(rows) - 1].sources
    return len(first) != len(last) or not all(map(torch.equal, first, last))


def _level(sigma: float, sample: Tensor) -> Tensor:
    return torch.full((len(sample),), sigma, device=sample.device)
