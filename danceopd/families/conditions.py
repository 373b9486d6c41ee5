"""Prompts and source images in the form of the real families: one row per sample, stacked when used."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from danceopd.flow import upload

Encoded = Mapping[str, Tensor]
"""What an encoder made of one prompt or one image, by the names that the family's adapter uses; no batch."""


@dataclass(frozen=True)
class PromptRow:
    """What one sample is conditioned on.

    Attributes:
        prompt: the encoded prompt.
        negative: the encoded negative prompt, usually the empty one, for guidance and dropped conditions.
        sources: the encoded source images, in their order; none for text-to-image.
    """

    prompt: Encoded
    negative: Encoded
    sources: tuple[Encoded, ...] = ()

    def layout(self) -> Hashable:
        """What two rows must share to be stacked: names and shapes."""
        parts = (self.prompt, *self.sources)
        return tuple(tuple((name, tensor.shape) for name, tensor in sorted(part.items())) for part in parts)


@dataclass(frozen=True)
class RowsCondition:
    """A batch of rows, whose layouts may differ. See `danceopd.flow.Condition`."""

    rows: tuple[PromptRow, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Tensor) -> RowsCondition:
        """The given rows [R], in their order."""
        return RowsCondition(tuple(self.rows[row] for row in rows.tolist()))

    def concat(self, other: RowsCondition) -> RowsCondition:
        """Both batches as one, `other` last."""
        return RowsCondition(self.rows + other.rows)

    def unconditional(self) -> RowsCondition:
        """The same sources under the negative prompt."""
        return RowsCondition(tuple(replace(row, prompt=row.negative) for row in self.rows))

    def to(self, device: torch.device | str) -> RowsCondition:
        """The same rows on `device`; tensors that rows share are moved once and stay shared."""
        moved: dict[int, Tensor] = {}

        def move(part: Encoded) -> Encoded:
            return {name: _moved(tensor, device, moved) for name, tensor in part.items()}

        return RowsCondition(
            tuple(
                PromptRow(move(row.prompt), move(row.negative), tuple(map(move, row.sources)))
                for row in self.rows
            )
        )

    def groups(self, layout: Callable[[PromptRow], Hashable]) -> Iterator[Tensor]:
        """Positions of the rows of each layout, int64 on the CPU."""
        found: dict[Hashable, list[int]] = {}
        for position, row in enumerate(self.rows):
            found.setdefault(layout(row), []).append(position)
        return map(torch.tensor, found.values())


def stack(parts: list[Encoded], name: str, dtype: torch.dtype | None = None) -> Tensor:
    """One tensor [B, ...] of what the parts hold under a name."""
    return torch.stack([part[name] for part in parts]).to(dtype)


def stack_sources(rows: Sequence[PromptRow], name: str, dtype: torch.dtype) -> list[Tensor]:
    """One tensor [B, ...] per source image of rows of one layout, in the images' order."""
    return [stack([row.sources[i] for row in rows], name, dtype) for i in range(len(rows[0].sources))]


def _moved(tensor: Tensor, device: torch.device | str, moved: dict[int, Tensor]) -> Tensor:
    if id(tensor) not in moved:
        moved[id(tensor)] = upload(tensor, torch.device(device))
    return moved[id(tensor)]
