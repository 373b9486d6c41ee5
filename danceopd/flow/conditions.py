"""What a velocity field is conditioned on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from typing_extensions import Self


class Condition(Protocol):
    """A batch of prompts (and source images, for edits) in the form that one model family understands.

    A condition never changes in place: every method returns a new one.
    """

    def __len__(self) -> int:
        """Number of samples, B."""
        ...

    def take(self, rows: Tensor) -> Self:
        """The given rows in the given order; `rows` is an int64 tensor [R] on the CPU, repeats allowed."""
        ...

    def concat(self, other: Self) -> Self:
        """Both batches as one, `other` last."""
        ...

    def unconditional(self) -> Self:
        """The same samples with the prompt dropped and the source kept: the second branch of guidance."""
        ...

    def to(self, device: torch.device | str) -> Self:
        """The same samples on `device`."""
        ...
