"""ShapesWorld as a model family: latents are the images themselves, in [-1, 1]."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from danceopd.data import check_targets, content_key
from danceopd.families.base import (
    EncodedWhenAsked,
    Example,
    Examples,
    Footprint,
    RowsOfShape,
    Student,
    field_of,
)
from danceopd.families.config import StudentConfig, Teacher
from danceopd.flow import AdapterField, GuidedField, ModelField, SigmaGrid, VelocityField
from danceopd.methods import add_differences

from .lora import add_lora, file_name, linear_layers, load_lora, lora_metadata, merge_lora, read_lora
from .model import ShapesCondition, build_model, predict
from .render import from_pixels, render, to_pixels
from .tasks import GROUNDS, Task, TaskSet
from .weights import (
    EXPERTS,
    STUDENT_FILE,
    Fingerprint,
    Weights,
    find_weights,
    fingerprint,
    portable_name,
    read_weights,
    write_weights,
)
from .world import CHANNELS, IMAGE_SIZE, VERSION

_STUDENT = "student"


def as_example(task: Task) -> Example:
    """A task as a row: its prompt, its source and target as uint8 [3, 16, 16], and itself as `meta`.

    The mask of an edit marks the pixels in which source and target differ.
    """
    if task.source is None:
        return Example(task.prompt, target=to_pixels(render([task.target]))[0], meta=task)
    target, source = to_pixels(render([task.target, task.source]))
    changed = (target != source).any(0).to(torch.uint8) * 255
    return Example(task.prompt, (source,), target, task, mask=changed)


class TaskExamples:
    """The tasks of a ground as a route's rows."""

    def __init__(self, tasks: TaskSet) -> None:
        self.tasks = tasks

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, row: int, /) -> Example:
        return as_example(self.tasks[row])

    def fingerprint(self) -> str:
        """Changes when the world does, the categories, or the split."""
        about = (VERSION, self.tasks.categories, self.tasks.split, len(self))
        return content_key("shapesworld", *about)

    @property
    def has_masks(self) -> bool:
        """Whether they are edits."""
        return self[0].mask is not None

    def check_targets(self) -> None:
        """Every task has one."""


class ShapesWorldFamily:
    """The embedded default family: a 0.9 M parameter FLUX.2 on 16 x 16 images, with shipped experts.

    Implements `danceopd.families.Family`. Wherever a teacher or a student names weights, the name of a
    shipped expert, a safetensors file and the folder of a finished run are accepted. Fields on the same
    weights share one model in memory, LoRAs on it and the plain weights alike, and equal ones are one object.

    Args:
        dtype: of weights and activations.
        device: where the models run.
    """

    name = "shapesworld"

    def __init__(self, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> None:
        self.dtype = dtype
        self.device = torch.device(device)
        self._models: dict[Fingerprint, nn.Module] = {}
        self._fields: dict[tuple[Fingerprint, Fingerprint | None, float], AdapterField] = {}
        self._adapter_numbers = count()

    def shape(self, example: Example | None = None) -> tuple[int, ...]:
        """Every image of this world has the same size.

        Raises:
            ValueError: the example asks for another one.
        """
        if example is not None and example.size not in (None, (IMAGE_SIZE, IMAGE_SIZE)):
            raise ValueError(
                f"size={example.size} cannot be had in ShapesWorld, which has {IMAGE_SIZE} x {IMAGE_SIZE} "
                "alone: drop it."
            )
        return CHANNELS, IMAGE_SIZE, IMAGE_SIZE

    def grid(self, num_steps: int, shape: Sequence[int] = ()) -> SigmaGrid:
        """The uniform grid: images this small need no shift."""
        return SigmaGrid.uniform(num_steps)

    def data(
        self, spec: Any, *, route: str | None = None, columns: Mapping[str, str] | None = None
    ) -> TaskExamples:
        """Training rows of a ground: t2i, local, global or edit.

        Raises:
            ValueError: `spec` names none of them, or `columns` are given.
        """
        if columns is not None:
            raise ValueError(f"columns cannot be renamed in ShapesWorld's data {spec!r}: drop the key.")
        if not isinstance(spec, str) or spec not in GROUNDS:
            raise ValueError(f"data {spec!r} is unknown to ShapesWorld; choose one of {', '.join(GROUNDS)}.")
        return TaskExamples(TaskSet(spec, "train"))

    def shapes(self, data: Examples) -> RowsOfShape:
        """All the same."""
        return {self.shape(): range(len(data))}

    def footprint(self, student: StudentConfig, teachers: Sequence[Teacher]) -> Footprint:
        """The small model, once for the student and once for each checkpoint among the teachers.

        Raises:
            ValueError: `student.targets` name no layer.
        """
        model = build_model()
        numbers = sum(parameter.numel() for parameter in model.parameters())
        models = 1 + len({teacher.checkpoint for teacher in teachers})
        trained = numbers
        if student.kind == "lora":
            layers = linear_layers(model, student.targets).values()
            trained = student.rank * sum(layer.in_features + layer.out_features for layer in layers)
        return Footprint(numbers * models * self.dtype.itemsize, elsewhere=0, encoders=0, trained=trained)

    def files(self, model: Teacher | StudentConfig, teachers: Sequence[Teacher] = ()) -> dict[str, Path]:
        """The weights files of a teacher or of a student's start, see `danceopd.families.Family.files`.

        Raises:
            ValueError: as `field`.
        """
        if isinstance(model, Teacher):
            if model.identity is not None:
                return {}
            found = _files("weights", model.checkpoint or "base")
            return found if model.lora is None else found | {"lora": find_weights(model.lora)}
        found = _files("base", "base")
        for number, name in enumerate([model.init] if isinstance(model.init, str) else model.init):
            found |= _files(f"start {number}", name)
        return found

    def encode(self, examples: Sequence[Example]) -> ShapesCondition:
        """Words and sources of a batch, on the family's device.

        Raises:
            ValueError: an unknown word, too many words, or a source of another size or dtype, or several.
        """
        for example in examples:
            if len(example.sources) > 1:
                raise ValueError(f"sources holds {len(example.sources)} images, but ShapesWorld edits one.")
        sources = [from_pixels(example.sources[0]) if example.sources else None for example in examples]
        return ShapesCondition.from_prompts([example.prompt for example in examples], sources).to(self.device)

    def prepare(
        self, data: Sequence[Examples], folder: Path, *, targets: bool = False, masks: bool = False
    ) -> list[EncodedWhenAsked]:
        """Nothing to do ahead: words are looked up in a table, and images are their own latents.

        Raises:
            ValueError: a row has no target where they are asked for.
        """
        if targets:
            check_targets(data)
        return [EncodedWhenAsked(self, examples, self.shape(), from_pixels) for examples in data]

    def guided(self, field: VelocityField, scale: float) -> VelocityField:
        """`field` under classifier-free guidance; itself at scale 1."""
        return field if scale == 1.0 else GuidedField(field, scale)

    def decode(self, sample: Tensor) -> Tensor:
        """Samples [B, 3, 16, 16] as uint8 images."""
        return to_pixels(sample)

    def release_encoders(self) -> None:
        """There are none."""

    def field(self, name_or_path: str, *, lora: str | None = None, scale: float = 1.0) -> VelocityField:
        """The frozen field of some weights, optionally with a LoRA of strength `scale` on them.

        Raises:
            ValueError: the weights are not found, not readable, or not of this world.
        """
        if lora is not None:
            return self._shared_field(name_or_path, read_weights(lora), scale)
        weights = read_weights(name_or_path)
        if weights.is_lora:
            return self._shared_field(_base_of(weights), weights, scale)
        return self._shared_field(name_or_path, None, 1.0)

    def full_model(self, name_or_path: str) -> nn.Module:
        """A frozen model of its own with these weights; a LoRA is merged into the weights it belongs on.

        Raises:
            ValueError: as `field`.
        """
        model = build_model()
        model.load_state_dict(_full_weights(read_weights(name_or_path), model))
        # diffusers' own `to` logs a warning about modules kept in float32, of which this model has none.
        nn.Module.to(model, self.device, self.dtype)
        return model.eval().requires_grad_(False)

    def teacher(self, teacher: Teacher) -> VelocityField:
        """The frozen field of a teacher; without a checkpoint it is the base.

        Raises:
            ValueError: as `field`, or `weight_name` is set.
        """
        if teacher.identity is not None:
            return field_of(self, teacher)
        if teacher.weight_name is not None:
            raise ValueError(
                f"teacher {teacher.name!r} has weight_name={teacher.weight_name!r}, but a LoRA of this world "
                "is one file; name that file as lora."
            )
        for key in ("guidance_vector", "offload", "quantization"):
            if getattr(teacher, key):
                raise ValueError(
                    f"teacher {teacher.name!r} has {key}={getattr(teacher, key)!r}, which is for large "
                    "models, not for ShapesWorld's: drop it."
                )
        field = self.field(teacher.checkpoint or "base", lora=teacher.lora, scale=teacher.scale)
        return self.guided(field, teacher.guidance_scale)

    def student(self, config: StudentConfig, teachers: Sequence[Teacher] = ()) -> Student:
        """A student that starts at `config.init`: all of its weights, or a LoRA on them.

        Raises:
            ValueError: as `field`, or `config.targets` names no layer, or a LoRA is to start from a merge.
        """
        config = config.settled("full")
        for key in ("guidance_vector", "gradient_checkpointing"):
            if getattr(config, key):
                raise ValueError(f"student.{key} is for large models, not for ShapesWorld's: drop it.")
        if isinstance(config.init, str):
            model = self.full_model(config.init)
            return (
                _full_student(model) if config.kind == "full" else _lora_student(model, config, config.init)
            )
        if config.kind == "lora":
            raise ValueError(
                f"student.init is {config.init}, but a LoRA must name the weights under it; name one, or "
                "set student.kind to full."
            )
        model = self.full_model("base")
        experts = [self.full_model(name).state_dict() for name in config.init]
        model.load_state_dict(add_differences(model.state_dict(), experts, list(config.init.values())))
        return _full_student(model)

    def restored_student(self, config: StudentConfig, trained: Mapping[str, Tensor]) -> Student:
        """A student for weights that are trained already.

        All weights hold their start; what is under a LoRA is read from `config.init` again.

        Raises:
            ValueError: as `field`.
        """
        full = config.settled("full").kind == "full"
        return self.student(dataclasses.replace(config, init="base") if full else config)

    def _shared_field(self, base: str, lora: Weights | None, scale: float) -> AdapterField:
        beneath = fingerprint(find_weights(base))
        key = (beneath, None if lora is None else fingerprint(lora.path), scale)
        if key not in self._fields:
            if beneath not in self._models:
                self._models[beneath] = self.full_model(base)
            model, adapter = self._models[beneath], None
            if lora is not None:
                adapter = f"lora{next(self._adapter_numbers)}"
                load_lora(model, adapter, read_lora(lora, model), scale=scale)
            self._fields[key] = AdapterField(model, adapter, predict)
        return self._fields[key]


def _full_student(model: nn.Module) -> Student:
    model.requires_grad_(True)

    def export(directory: Path, parameters: Mapping[str, Tensor]) -> Path:
        tensors = {**model.state_dict(), **parameters}
        return write_weights(directory / STUDENT_FILE, tensors, {"kind": "full"})

    return Student(model, ModelField(model, predict), export)


def _lora_student(model: nn.Module, config: StudentConfig, init: str) -> Student:
    layers = list(linear_layers(model, config.targets))
    alpha = float(config.rank if config.alpha is None else config.alpha)
    add_lora(model, _STUDENT, rank=config.rank, alpha=alpha, layers=layers)
    about = {"kind": "lora", "base": portable_name(init), **lora_metadata(config.rank, alpha, layers)}

    def export(directory: Path, parameters: Mapping[str, Tensor]) -> Path:
        tensors = {file_name(name, _STUDENT): value for name, value in parameters.items()}
        return write_weights(directory / STUDENT_FILE, tensors, about)

    return Student(model, AdapterField(model, _STUDENT, predict), export)


def _full_weights(weights: Weights, model: nn.Module) -> dict[str, Tensor]:
    """All weights that a file stands for, checked against the model."""
    loras: list[Weights] = []
    while weights.is_lora:
        if any(weights.path == lora.path for lora in loras):
            raise ValueError(f"{weights.path} is a LoRA on itself; restore the weights it was trained on.")
        loras.append(weights)
        weights = read_weights(_base_of(weights))
    known = model.state_dict()
    wrong = sorted(
        {name for name, tensor in known.items() if _shape(weights.tensors.get(name)) != tensor.shape}
        | (weights.tensors.keys() - known.keys())
    )
    if wrong:
        raise ValueError(
            f"{weights.path} differs from ShapesWorld's model in {len(wrong)} tensors (first {wrong[0]!r}); "
            "give weights of this world."
        )
    full = weights.tensors
    for lora in loras:
        full = merge_lora(full, read_lora(lora, model))
    return full


def _files(role: str, name: str) -> dict[str, Path]:
    """The file behind a name, and of a LoRA those that it belongs on."""
    weights = read_weights(name)
    found = {role: weights.path}
    while weights.is_lora:
        weights = read_weights(_base_of(weights))
        if weights.path in found.values():
            break  # it says so itself that it lies on itself, and is refused where it is loaded
        found[f"{role}, {len(found)} beneath"] = weights.path
    return found


def _shape(tensor: Tensor | None) -> torch.Size | None:
    return None if tensor is None else tensor.shape


def _base_of(lora: Weights) -> str:
    if "base" not in lora.metadata:
        raise ValueError(
            f"{lora.path} does not say which weights it is for; name them as checkpoint and the file as lora."
        )
    base = lora.metadata["base"]
    return base if base in EXPERTS else str(lora.path.parent / base)
