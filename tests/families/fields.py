"""A tiny family, loaded anew, and what its fields say to a few rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from danceopd.families import Example, load_family
from danceopd.families.pretrained import PretrainedFamily
from danceopd.flow import VelocityField
from tests.families.parity import as_tensor, folder_of
from tests.families.tiny.calls import picture
from tests.families.tiny.words import PROMPTS

SIZE = (32, 48)


def new_family(kind: str, dtype: torch.dtype = torch.float32) -> PretrainedFamily:
    family = load_family(folder_of(kind), resolution=64, dtype=dtype)
    assert isinstance(family, PretrainedFamily)
    return family


def inputs(family: PretrainedFamily, rows: int = 4) -> tuple[Tensor, Tensor, Any]:
    """Samples, noise levels and conditions: as far as the family edits, with no, with one and with two
    sources."""
    pictures = (as_tensor(picture(1)), as_tensor(picture(2)))
    counts = range(min(family.conventions.max_sources, 2) + 1)
    examples = [
        Example(PROMPTS[row % 3], pictures[: counts[row % len(counts)]], size=SIZE) for row in range(rows)
    ]
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(rows, *family.shape(examples[0]), generator=generator)
    return sample, torch.linspace(0.2, 0.9, rows), family.encode(examples)


@torch.no_grad()
def velocity(family: PretrainedFamily, field: VelocityField, **which: Any) -> Tensor:
    """fp32 [B, C, h, w] at `inputs`."""
    return field(*inputs(family, **which)).float()
