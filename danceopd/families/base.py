"""What a model family offers to the trainer and the sampler."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from danceopd.families.config import StudentConfig, Teacher
from danceopd.flow import Condition, SigmaGrid, VelocityField, upload
from danceopd.settings import ConfigError


@dataclass(frozen=True)
class Example:
    """One row of a route's data.

    Args:
        prompt: the caption, or the instruction of an edit.
        sources: uint8 [3, H, W] each, the images to edit or to refer to; none for text-to-image.
        target: uint8 [3, H, W], what the data says should come out, for methods that learn from data.
        meta: whatever a scorer needs to judge the outcome.
        size: height and width in pixels of the image to make; the family's choice when None.
        mask: uint8 [H, W], 255 where the edit changes the image and 0 where it keeps it, greys in part; of
            the size of the target, or of the first source.
    """

    prompt: str
    sources: tuple[Tensor, ...] = ()
    target: Tensor | None = None
    meta: Any = None
    size: tuple[int, int] | None = None
    mask: Tensor | None = None


class Examples(Protocol):
    """The rows of a route, read by position."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> Example: ...


class Prepared(Protocol):
    """The rows of a route as a family has encoded them, read by position."""

    def __len__(self) -> int: ...

    def shape(self, row: int, /) -> tuple[int, ...]:
        """Shape of the row's latent, without the batch; cheap."""
        ...

    def condition(self, rows: Sequence[int], /) -> Condition:
        """The condition of some rows, in their order, on the family's device."""
        ...

    def target(self, rows: Sequence[int], /) -> Tensor:
        """Clean latents fp32 [R, C, h, w] of the targets of rows of one shape, on the family's device.

        Raises:
            ValueError: a row has no target, or targets were not asked for when the rows were prepared.
        """
        ...

    def mask(self, rows: Sequence[int], /) -> Tensor:
        """What of each latent cell is marked, fp32 [R, 1, h, w] in 0 .. 1, on the family's device.

        Ones for a row without a mask. `rows` are of one shape.

        Raises:
            ValueError: masks were not asked for when the rows were prepared.
        """
        ...


@dataclass(frozen=True)
class EncodedWhenAsked:
    """`Prepared` for a family whose encoding costs next to nothing.

    Args:
        family: encodes the rows, anew each time.
        examples: the rows.
        sample_shape: of every row's latent.
        latent: makes the clean latent [C, h, w] of an image, uint8 [3, H, W].
    """

    family: Family
    examples: Examples
    sample_shape: tuple[int, ...]
    latent: Callable[[Tensor], Tensor]

    def __len__(self) -> int:
        return len(self.examples)

    def shape(self, row: int, /) -> tuple[int, ...]:
        """`sample_shape`."""
        return self.sample_shape

    def condition(self, rows: Sequence[int], /) -> Condition:
        """The rows, encoded now."""
        return self.family.encode([self.examples[row] for row in rows])

    def target(self, rows: Sequence[int], /) -> Tensor:
        """The rows' targets, encoded now."""
        return upload(torch.stack([self._latent(row) for row in rows]), self.family.device)

    def mask(self, rows: Sequence[int], /) -> Tensor:
        """The rows' masks, averaged over the cells of the latent."""
        return upload(torch.stack([self._shares(row) for row in rows]), self.family.device)

    def _shares(self, row: int) -> Tensor:
        mask, (height, width) = self.examples[row].mask, self.sample_shape[-2:]
        if mask is None:
            return torch.ones(1, height, width)
        return adaptive_avg_pool2d(mask[None].to(torch.float32) / 255, (height, width))

    def _latent(self, row: int) -> Tensor:
        target = self.examples[row].target
        if target is None:
            raise ValueError(f"row {row} has no target: give every row one, or drop the row.")
        return self.latent(target)


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


RowsOfShape = Mapping[tuple[int, ...], Sequence[int]]
"""Positions of rows by the shape of their latent, rising; a range where there are very many."""


@dataclass(frozen=True)
class Footprint:
    """What the models of a run take at the least, as far as it is known before any weight is read.

    LoRA teachers do not count: beside the weights that they are put on they are small.

    Attributes:
        weights: bytes on the family's device, the student's included.
        elsewhere: bytes of models that wait off the device until they are asked.
        encoders: bytes of what encodes rows, which leaves the memory when that is done.
        trained: number of trained parameters, without those of layers that a LoRA student has from its start
            alone.
    """

    weights: int
    elsewhere: int
    encoders: int
    trained: int


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

    def shape(self, example: Example) -> tuple[int, ...]:
        """Shape of the latent of the image that an example asks for, without the batch."""
        ...

    def grid(self, num_steps: int, shape: Sequence[int]) -> SigmaGrid:
        """The noise levels of a rollout of `num_steps` steps, shifted as for latents of `shape`."""
        ...

    def data(
        self, spec: Any, *, route: str | None = None, columns: Mapping[str, str] | None = None
    ) -> Examples:
        """The rows behind a route's `data` (a file, a named set, ...), checked as far as that needs no model.

        Of rows that name routes only those of `route` count; `columns` are other names of a file's columns.
        """
        ...

    def shapes(self, data: Examples) -> RowsOfShape:
        """The rows of what `data` returned by their latent's shape; cheap, no image is opened again."""
        ...

    def footprint(self, student: StudentConfig, teachers: Sequence[Teacher]) -> Footprint:
        """What a run would take, from configs and the sizes of files alone."""
        ...

    def files(self, model: Teacher | StudentConfig, teachers: Sequence[Teacher] = ()) -> Mapping[str, Path]:
        """The files that a teacher, or a student at its start, is read from, those of the base included.

        What a student is conditioned on counts as its own. The keys are names that stay when the files move.

        Raises:
            ValueError: one of them is not there.
        """
        ...

    def encode(self, examples: Sequence[Example]) -> Condition:
        """Prompts and sources as the model's condition, on `device`."""
        ...

    def prepare(
        self, data: Sequence[Examples], folder: Path, *, targets: bool = False, masks: bool = False
    ) -> Sequence[Prepared]:
        """Encode every row of every route once, keep what costs much in `folder`, free the encoders.

        Args:
            data: the rows of each route.
            folder: where encoded rows are kept.
            targets: encode the rows' targets as well.
            masks: bring the rows' masks to the cells of their latents as well.

        Raises:
            ValueError: a row has no target where they are asked for.
        """
        ...

    def guided(self, field: VelocityField, scale: float) -> VelocityField:
        """`field` under the family's classifier-free guidance; itself at scale 1."""
        ...

    def teacher(self, teacher: Teacher) -> VelocityField:
        """A frozen field, its guidance scale included."""
        ...

    def student(self, config: StudentConfig, teachers: Sequence[Teacher] = ()) -> Student:
        """A new student, ready to train; `config.init` may name one of `teachers`."""
        ...

    def restored_student(self, config: StudentConfig, trained: Mapping[str, Tensor]) -> Student:
        """The student whose trained parameters `trained` (by name, to be loaded by the caller) are.

        Of `config.init` only what stays frozen under the trained parameters is read.
        """
        ...

    def decode(self, sample: Tensor) -> Tensor:
        """Clean latents [B, ...] as images, uint8 [B, 3, H, W]."""
        ...

    def release_encoders(self) -> None:
        """Free what `encode` and `decode` have loaded; they load it again where it is needed."""
        ...


def field_of(family: Family, teacher: Teacher) -> VelocityField:
    """The frozen field of a teacher, its guidance scale included: the family's, or the one it brings along.

    Raises:
        ValueError: as `Family.teacher`; or it is a field of Python code, of which only the identity is here.
    """
    if teacher.identity is None:
        return family.teacher(teacher)
    check_has_field(teacher)
    return family.guided(teacher.field, teacher.guidance_scale)


def check_has_field(teacher: Teacher) -> None:
    """Raise ConfigError where a teacher is a field of Python code of which only the identity is here."""
    if teacher.identity is not None and teacher.field is None:
        raise ConfigError(
            f"teacher '{teacher.name}' is a field of Python code ({teacher.identity}), which no file holds: "
            f"go on from the script that made it, with Teacher('{teacher.name}', field=..., identity=...)."
        )


Place = Callable[[nn.Module, Sequence[nn.Module]], None]
"""``place(model, blocks)`` brings a frozen model to the device; `blocks`, modules of it, hold most of its
weights, in the order in which every forward runs the ones that it needs."""


@runtime_checkable
class Shardable(Protocol):
    """A family whose frozen models may be spread over processes: none of them then holds a whole one.

    Its models are called as modules, ``model(...)``, and adapters on them have ``.lora_`` in the names of
    their parameters.
    """

    def placed_by(self, place: Place) -> AbstractContextManager[None]:
        """Within the block frozen models stay on the CPU; at its end `place` is given each of them.

        Raises:
            ValueError: a frozen model is on the device already.
        """
        ...
