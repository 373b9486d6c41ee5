"""A diffusers checkpoint as a model family: shared base, LoRA and full teachers, students, encoded rows.

What differs from one family to the next is in its `Conventions`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from danceopd.data import RowContent, Rows, check_rows, check_targets, load_rows, nearest_bucket
from danceopd.families.base import (
    Example,
    Examples,
    Footprint,
    Place,
    RowsOfShape,
    Student,
    field_of,
)
from danceopd.families.checkpoint import ModelCheckpoint
from danceopd.families.conditions import RowsCondition
from danceopd.families.config import StudentConfig, Teacher
from danceopd.families.conventions import Conventions
from danceopd.families.encoded import EncodedRows
from danceopd.families.encoding import Encoder
from danceopd.families.lora import Lora, choose_layers, is_factor, linear_layers, load_adapter, rest_on
from danceopd.families.lora_files import read_lora
from danceopd.families.model_files import files_of
from danceopd.families.placement import OffloadedField, blocks_of, hold_in_int8, hold_pinned
from danceopd.families.predict import Predict
from danceopd.families.students import (
    StudentStart,
    find_student_start,
    full_student,
    lora_student,
    other_transformer,
)
from danceopd.flow import AdapterField, GuidedField, ModelField, SigmaGrid, VelocityField

STUDENT = "student"


class PretrainedFamily:
    """A family loaded from a diffusers checkpoint. Implements `danceopd.families.Family`.

    The base transformer is read once, when a field is first asked for. LoRA teachers and a LoRA student are
    adapters on it; a teacher with a checkpoint of its own is a separate frozen model. Encoders are loaded to
    encode, and leave the memory when `prepare` is done.

    Args:
        checkpoint: what to load from.
        conventions: its family's conventions.
        dtype: of weights and activations.
        device: where the models run.
        resolution: side in pixels of a square image; other aspect ratios keep its area.
    """

    def __init__(
        self,
        checkpoint: ModelCheckpoint,
        conventions: Conventions,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        resolution: int = 1024,
    ) -> None:
        multiple = conventions.multiple
        if resolution < multiple or resolution % multiple:
            raise ValueError(
                f"resolution must be a multiple of {multiple} for {conventions.name}, but got {resolution}: "
                f"use {max(multiple, round(resolution / multiple) * multiple)}."
            )
        self.name = checkpoint.name
        self.checkpoint = checkpoint
        self.conventions = conventions
        self.dtype = dtype
        self.device = torch.device(device)
        self.resolution = resolution
        self._sizes = conventions.sizes(resolution)
        self._encoder = Encoder(checkpoint, conventions, dtype, self.device, sizes=self._sizes)
        self._base: nn.Module | None = None
        self._placed: list[nn.Module] = []
        self._waiting: list[nn.Module] | None = None
        self._others: dict[tuple[Path, bool, str | None], nn.Module] = {}
        self._fields: dict[Teacher, VelocityField] = {}
        self._adapter_numbers = count()
        self._shapes: WeakKeyDictionary[Examples, dict[tuple[int, ...], list[int]]] = WeakKeyDictionary()

    # -- sizes -----------------------------------------------------------------------------------------------

    def size(self, example: Example) -> tuple[int, int]:
        """Height and width of the image that an example asks for, in pixels.

        That of the example itself; or the bucket nearest to its first source's aspect ratio; or a square.

        Raises:
            ValueError: the example's size does not fit the family.
        """
        sources = [(source.shape[1], source.shape[2]) for source in example.sources]
        return self._size(example.size, *sources[:1])

    def _size(self, size: tuple[int, int] | None, source: tuple[int, int] | None = None) -> tuple[int, int]:
        if size is not None:
            height, width = size
            multiple = self.conventions.multiple
            if height < multiple or width < multiple or height % multiple or width % multiple:
                raise ValueError(
                    f"size must be multiples of {multiple} for {self.conventions.name}, but got {height} x "
                    f"{width}: round it."
                )
            return height, width
        if source is not None:
            return nearest_bucket(*source, self._sizes)
        return self.resolution, self.resolution

    def _size_of(self, content: RowContent) -> tuple[int, int]:
        sources = [(source.height, source.width) for source in content.sources]
        return self._size(content.size, *sources[:1])

    def shape(self, example: Example) -> tuple[int, ...]:
        """[C, h, w] of the latent of `size`."""
        return self.conventions.shape(*self.size(example))

    def grid(self, num_steps: int, shape: Sequence[int]) -> SigmaGrid:
        """The checkpoint's own noise levels, its shift for this size included.

        Raises:
            ValueError: the checkpoint's scheduler has no grid of so few steps.
        """
        try:
            return self.conventions.grid(num_steps, shape)
        except ValueError as error:
            reason = str(error).rstrip(".")
            raise ValueError(
                f"num_steps={num_steps} gives no grid for {self.conventions.name}: {reason}; use others."
            ) from None

    # -- rows ------------------------------------------------------------------------------------------------

    def data(self, spec: Any, *, route: str | None = None, columns: Mapping[str, str] | None = None) -> Rows:
        """The rows of a file or folder, see `danceopd.data.load_rows`, every one of them checked.

        Raises:
            ValueError: in one sentence that names the row.
        """
        rows = load_rows(spec, route=route, columns=columns)
        self._shapes[rows] = _positions(check_rows(rows, look=self._look))
        return rows

    def shapes(self, data: Examples) -> RowsOfShape:
        """Rows by the [C, h, w] of their latent, noted when `data` checked them."""
        if data not in self._shapes:
            self._shapes[data] = _positions(self._look(data[row]) for row in range(len(data)))
        return self._shapes[data]

    def _look(self, example: Example) -> tuple[int, ...]:
        self._encoder.check_sources(example)
        return self.shape(example)

    def encode(self, examples: Sequence[Example]) -> RowsCondition:
        """Prompts and sources through the checkpoint's encoders, on the family's device.

        Raises:
            ValueError: a row has more sources than the family takes.
        """
        rows = [self._encoder.encode(example) for example in examples]
        return RowsCondition(tuple(rows)).to(self.device)

    def prepare(
        self, data: Sequence[Examples], folder: Path, *, targets: bool = False, masks: bool = False
    ) -> list[EncodedRows]:
        """Encode every row once into `folder`, or find it there, and free the encoders.

        Transformers that are on the device already wait on the CPU meanwhile: beside them the encoders of the
        large families would not fit.

        Args:
            data: the rows of each route.
            folder: of the cache.
            targets: encode the rows' targets as well, at the size of the image that the row asks for.
            masks: bring the rows' masks to the cells of that image's latent as well.

        Raises:
            ValueError: a row cannot be encoded, or has no target where they are asked for.
        """
        if targets:
            check_targets(data)
        placed = [] if self.device.type == "cpu" else self._placed
        try:
            for model in placed:
                _move(model, torch.device("cpu"))
            return [
                self._encoder.prepare(rows, folder, self._size_of, targets=targets, masks=masks)
                for rows in data
            ]
        finally:
            self._encoder.release()
            for model in placed:
                _move(model, self.device)

    def release_encoders(self) -> None:
        """Drop encoders and decoder from memory; they come back when they are needed."""
        self._encoder.release()

    def decode(self, sample: Tensor) -> Tensor:
        """Clean latents [B, C, h, w] as images, uint8 [B, 3, H, W]."""
        return self._encoder.decode(sample)

    # -- fields and models -----------------------------------------------------------------------------------

    def guided(self, field: VelocityField, scale: float) -> VelocityField:
        """`field` under the family's classifier-free guidance; itself at scale 1."""
        if scale == 1.0:
            return field
        # The plain formula is what GuidedField folds into a step; only a family's own is passed on.
        own = type(self.conventions).combine is not Conventions.combine
        return GuidedField(field, scale, self.conventions.combine) if own else GuidedField(field, scale)

    def teacher(self, teacher: Teacher) -> VelocityField:
        """The frozen field of a teacher; teachers of equal weights are one object.

        Raises:
            ValueError: its files are missing, damaged, or of another model; the message lists what is wrong.
        """
        if teacher.identity is not None:
            return field_of(self, teacher)
        predict = self._predict(teacher.guidance_vector, f"teacher '{teacher.name}'")
        key = dataclasses.replace(teacher, name="-", guidance_scale=1.0, guidance_vector=predict.guidance)
        if key not in self._fields:
            model = self.base if teacher.checkpoint is None else self._other(teacher)
            adapter = None
            if teacher.lora is not None:
                adapter = f"lora{next(self._adapter_numbers)}"
                lora = self.lora(teacher)
                try:
                    load_adapter(model, adapter, lora, scale=teacher.scale)
                except ValueError as error:
                    raise ValueError(
                        f"the LoRA '{teacher.lora}' of teacher '{teacher.name}' is not for {self.name}: "
                        f"{error}; give one that was trained on this model."
                    ) from None
                # A block that is recomputed in a backward pass runs the resting adapter, also in layers that
                # had none before.
                rest_on(model, STUDENT)
            field: VelocityField = AdapterField(model, adapter, predict)
            self._fields[key] = OffloadedField(field, model, self.device) if teacher.offload else field
        return self.guided(self._fields[key], teacher.guidance_scale)

    def student(self, config: StudentConfig, teachers: Sequence[Teacher] = ()) -> Student:
        """A student that starts at `config.init`: a LoRA on the shared base, or a model of its own.

        Raises:
            ValueError: `init` names what is not there, or cannot be the start of such a student.
        """
        return self._student(config, find_student_start(config, teachers, self._read_lora))

    def restored_student(self, config: StudentConfig, trained: Mapping[str, Tensor]) -> Student:
        """A student for weights that are trained already, on the layers that these name.

        The start went into what is trained, a LoRA's into the factors, so that its files are not needed.
        """
        adapted = (name.partition(".lora_")[0] for name in trained if is_factor(name, STUDENT))
        return self._student(config, StudentStart(layers=tuple(dict.fromkeys(adapted))))

    def _student(self, config: StudentConfig, start: StudentStart) -> Student:
        predict = self._predict(config.guidance_vector, "student")
        config = config.settled("lora")
        if config.kind == "full":
            model = self.checkpoint.transformer(self.dtype)
            export = full_student(model, start, self.full_model)
            self._place(model)
            field: VelocityField = ModelField(model, predict)
        else:
            model = self.base
            if any(is_factor(name, STUDENT) for name, _ in model.named_parameters()):
                raise ValueError(
                    "this family has a LoRA student already: load the family again for another one."
                )
            targets = config.targets or self.conventions.targets
            export = lora_student(model, STUDENT, config, start, targets, self.checkpoint.pipeline_class)
            rest_on(model, STUDENT)
            field = AdapterField(model, STUDENT, predict)
        if config.gradient_checkpointing:
            model.enable_gradient_checkpointing()  # type: ignore[operator]  # all have it
        return Student(model, field, export)

    def footprint(self, student: StudentConfig, teachers: Sequence[Teacher]) -> Footprint:
        """What a run would take; the transformer's size follows from its config.

        Raises:
            ValueError: the config makes no transformer, or `student.targets` name no layer of it.
        """
        model = self.checkpoint.outline()
        numbers = sum(parameter.numel() for parameter in model.parameters())
        student = student.settled("lora")
        full = student.kind == "full"
        trained = numbers
        if not full:
            layers = linear_layers(model)
            chosen = choose_layers(model, student.targets or self.conventions.targets)
            sides = sum(layers[name].in_features + layers[name].out_features for name in chosen)
            trained = student.rank * sides
        whole = numbers * self.dtype.itemsize
        shares_base = not full or any(teacher.checkpoint is None for teacher in teachers)
        others = {self._waits_as(teacher): teacher for teacher in teachers if teacher.checkpoint is not None}
        sizes = {place: numbers if other.quantization else whole for place, other in others.items()}
        waiting = [size for place, size in sizes.items() if others[place].offload]
        return Footprint(
            weights=whole * shares_base
            + trained * self.dtype.itemsize
            + sum(sizes.values())
            - sum(waiting)
            + max(waiting, default=0),
            elsewhere=sum(waiting),
            encoders=self.checkpoint.encoder_bytes(),
            trained=trained,
        )

    def files(self, model: Teacher | StudentConfig, teachers: Sequence[Teacher] = ()) -> dict[str, Path]:
        """The files that a teacher or a student is read from, see `danceopd.families.Family.files`."""
        if isinstance(model, Teacher) and model.identity is not None:
            return {}
        return files_of(self.checkpoint, model, teachers)

    @property
    def base(self) -> nn.Module:
        """The frozen transformer that adapters share, on the family's device."""
        if self._base is None:
            self._base = self._place(self.checkpoint.transformer(self.dtype))
        return self._base

    def lora(self, teacher: Teacher) -> Lora:
        """The factors of a teacher's LoRA."""
        assert teacher.lora is not None
        return self._read_lora(teacher.lora, teacher.weight_name)

    @cached_property
    def _layers(self) -> frozenset[str]:
        """Names of the transformer's linear layers, without its weights."""
        return frozenset(linear_layers(self.checkpoint.outline()))

    def _read_lora(self, path: str, weight_name: str | None = None) -> Lora:
        return read_lora(self.checkpoint.pipeline_class, self._layers, path, weight_name)

    def full_model(self, path: str) -> nn.Module:
        """A frozen transformer with full weights of its own, on the CPU; see `other_transformer`."""
        return other_transformer(self.checkpoint, path, self.dtype)

    def _other(self, teacher: Teacher) -> nn.Module:
        assert teacher.checkpoint is not None
        key = self._waits_as(teacher)
        if key not in self._others:
            model = self.full_model(teacher.checkpoint)
            if teacher.quantization:
                hold_in_int8(model)
            if teacher.offload and self.device.type == "cuda":
                hold_pinned(model)
            self._others[key] = model if teacher.offload else self._place(model)
        return self._others[key]

    @contextmanager
    def placed_by(self, place: Place) -> Iterator[None]:
        """Have `place` bring models to the device, see `danceopd.families.Shardable`."""
        if self._base is not None:
            raise ValueError(
                "this family's base is on its device already: load the family again, and ask it for no field "
                "before the trainer does."
            )
        self._waiting = []
        try:
            yield
            for model in self._waiting:
                place(model, blocks_of(model))
        finally:
            self._waiting = None

    def _place(self, model: nn.Module) -> nn.Module:
        if self._waiting is not None:
            self._waiting.append(model)
            return model
        _move(model, self.device)
        self._placed.append(model)
        return model

    @staticmethod
    def _waits_as(teacher: Teacher) -> tuple[Path, bool, str | None]:
        """What teachers with the same full weights share."""
        return Path(teacher.checkpoint or "").resolve(), teacher.offload, teacher.quantization

    def _predict(self, guidance: float | None, who: str) -> Predict:
        if not self.conventions.embeds_guidance:
            if guidance is not None:
                raise ValueError(
                    f"{who} has guidance_vector={guidance}, but this {self.conventions.name} takes none: "
                    "drop it, or use guidance_scale."
                )
        elif guidance is None:
            guidance = self.conventions.default_guidance
        return Predict(self.conventions, self.dtype, guidance)


def _positions(shapes: Iterable[tuple[int, ...]]) -> dict[tuple[int, ...], list[int]]:
    found: dict[tuple[int, ...], list[int]] = {}
    for row, shape in enumerate(shapes):
        found.setdefault(shape, []).append(row)
    return found


def _move(model: nn.Module, device: torch.device) -> None:
    # Its parameters stay the objects that an optimizer knows. diffusers' own `to` would log about modules
    # kept in float32, of which these models have none.
    nn.Module.to(model, device)
