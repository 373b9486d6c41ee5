"""A route's rows after the encoders: read from the cache as they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from danceopd.data import TensorCache
from danceopd.families.conditions import Encoded, PromptRow, RowsCondition
from danceopd.flow import upload

TARGET: Final = "latent"  # what the cache calls the one tensor of a target
MASK: Final = "mask"  # and of a mask


@dataclass(frozen=True, slots=True)
class Entry:
    """Where the cache has the parts of a row, by their keys."""

    prompt: str
    negative: str
    sources: tuple[str, ...]
    target: str | None
    mask: str | None


@dataclass(frozen=True)
class EncodedRows:
    """Encoded rows of a route. See `danceopd.families.Prepared`.

    Args:
        cache: holds what the entries name.
        entries: one per row.
        shapes: of each row's latent, [C, h, w].
        device: where the rows are wanted.
        has_masks: whether the rows' masks were asked for.
    """

    cache: TensorCache
    entries: Sequence[Entry]
    shapes: Sequence[tuple[int, ...]]
    device: torch.device
    has_masks: bool
    _negatives: dict[str, Encoded] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.entries)

    def shape(self, row: int, /) -> tuple[int, ...]:
        """Shape of the row's latent."""
        return self.shapes[row]

    def condition(self, rows: Sequence[int], /) -> RowsCondition:
        """The rows, on the family's device."""
        return RowsCondition(tuple(self._row(self.entries[row]) for row in rows)).to(self.device)

    def target(self, rows: Sequence[int], /) -> Tensor:
        """Clean latents fp32 [R, C, h, w] of rows of one shape, on the family's device.

        Raises:
            ValueError: a row has no target, or rows were prepared without them.
        """
        return upload(torch.stack([self._latent(row) for row in rows]), self.device)

    def _latent(self, row: int) -> Tensor:
        key = self.entries[row].target
        if key is None:
            raise ValueError(f"row {row} has no target: give it one, and prepare the rows with targets=True.")
        return self._read(key)[TARGET]

    def mask(self, rows: Sequence[int], /) -> Tensor:
        """What of each latent cell is marked, fp32 [R, 1, h, w] in 0 .. 1; ones for rows without a mask.

        Raises:
            ValueError: rows were prepared without masks.
        """
        if not self.has_masks:
            raise ValueError("masks were not asked for: prepare the rows with masks=True.")
        return upload(torch.stack([self._shares(row) for row in rows]), self.device)

    def _shares(self, row: int) -> Tensor:
        key = self.entries[row].mask
        return torch.ones(1, *self.shapes[row][-2:]) if key is None else self._read(key)[MASK]

    def _row(self, entry: Entry) -> PromptRow:
        if len(self._negatives) > 64:  # few where they are the empty prompt, one a row where they see images
            self._negatives.clear()
        if entry.negative not in self._negatives:
            self._negatives[entry.negative] = self._read(entry.negative)
        sources = tuple(map(self._read, entry.sources))
        return PromptRow(self._read(entry.prompt), self._negatives[entry.negative], sources)

    def _read(self, key: str) -> Encoded:
        tensors = self.cache.get(key)
        if tensors is None:
            raise OSError(
                f"the cache '{self.cache.folder}' has lost or damaged an entry ({key}): start the run again, "
                "and it is encoded anew."
            )
        return tensors
