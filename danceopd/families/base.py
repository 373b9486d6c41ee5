"""What a model family offers to the trainer and the sampler."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from danceopd.families.config import StudentConfig, Teacher
from danceopd.flow import Condition, SigmaGrid, VelocityField


@dataclass(frozen=True)
class Example:
    """One row of a route's data.

    Args:
        prompt: the caption, or the instruction of an edit.
        source: uint8 [3, H, W], the image to edit; None for text-to-image.
        target: uint8 [3, H, W], what the data says should come out, for methods that learn from data.
        meta: whatever a scorer needs to judge the outcome.
    """

    prompt: str
    source: Tensor | None = None
    target: Tensor | None = None
    meta: Any = None


class Examples(Protocol):
    """The rows of a route, read by position."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> Example: ...


@dataclass(frozen=True)
class Student:
    """The model that is trained.

    Args:
        module: its parameters with ``requires_grad`` are what is trained, averaged and checkpointed.
        field: the student's velocity field, with gradient.
        export: ``export(directory, parameters)`` writes what the family's users load and returns the file's
            path; `parameters` maps names in `module` to the values to write.
    """

    module: nn.Module
    field: VelocityField
    export: Callable[[Path, Mapping[str, Tensor]], Path]


class Family(Protocol):
    """One model family under the package's contract: sigma from 1 (noise) to 0 (clean), v = eps - x0."""

    @property
    def name(self) -> str:
        """What `load_family` was asked for."""
        ...

    @property
    def device(self) -> torch.device:
        """Where its fields compute and its conditions live."""
        ...

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one latent, without the batch."""
        ...

    def grid(self, num_steps: int) -> SigmaGrid:
        """The noise levels of a rollout of `num_steps` steps, with the family's shift."""
        ...

    def data(self, spec: str) -> Examples:
        """The rows behind a route's `data`, a file or a named set; the error for an unknown one lists all."""
        ...

    def encode(self, examples: Sequence[Example]) -> Condition:
        """Prompts and sources as the model's condition, on `device`."""
        ...

    def teacher(self, teacher: Teacher) -> VelocityField:
        """A frozen field, its guidance scale included."""
        ...

    def student(self, config: StudentConfig) -> Student:
        """A new student, ready to train."""
        ...

    def decode(self, sample: Tensor) -> Tensor:
        """Clean latents [B, ...] as images, uint8 [B, 3, H, W]."""
        ...
