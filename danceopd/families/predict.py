"""How a velocity field of a pretrained family calls its transformer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from danceopd.families.conditions import RowsCondition
from danceopd.families.conventions import Conventions
from danceopd.flow import upload


@dataclass(frozen=True)
class Predict:
    """Calls a transformer under the sigma contract, one forward per layout of rows; see
    `danceopd.flow.Predict`.

    Args:
        conventions: the family's.
        dtype: of the model's inputs.
        guidance: the guidance vector's value, None where the model takes none.
    """

    conventions: Conventions
    dtype: torch.dtype
    guidance: float | None

    def __call__(self, model: nn.Module, sample: Tensor, sigma: Tensor, condition: RowsCondition) -> Tensor:
        """Velocity [B, C, h, w] in the model's dtype."""
        sample = sample.to(self.dtype)
        groups = list(condition.groups(self.conventions.layout))
        if len(groups) == 1:
            return self.conventions.velocity(model, sample, sigma, condition.rows, self.guidance)
        parts = []
        for rows in groups:
            there = upload(rows, sample.device)
            alike = condition.take(rows).rows
            parts.append(self.conventions.velocity(model, sample[there], sigma[there], alike, self.guidance))
        back = upload(torch.argsort(torch.cat(groups)), sample.device)
        return torch.cat(parts)[back]
