"""What is trained on a pretrained family: a LoRA on the shared base, or all weights of a model of its own."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from danceopd.families.checkpoint import ModelCheckpoint, is_repository
from danceopd.families.config import StudentConfig, Teacher
from danceopd.families.lora import (
    Factors,
    Lora,
    add_adapter,
    add_to_weights,
    check_fits,
    choose_layers,
    combine,
    is_factor,
    set_factors,
)
from danceopd.files import keeping_mode, write_tensors
from danceopd.methods import add_differences

LORA_FILE = "pytorch_lora_weights.safetensors"

Export = Callable[[Path, Mapping[str, Tensor]], Path]


@dataclass(frozen=True)
class StudentStart:
    """Where a student starts: the base plus these differences from it, each times its factor.

    Attributes:
        loras: adapters.
        checkpoints: paths of full weights.
        layers: all layers of a LoRA that is trained already; where none are given, the targets and the
            adapters' layers are chosen.
    """

    loras: list[tuple[Lora, float]] = field(default_factory=list)
    checkpoints: list[tuple[str, float]] = field(default_factory=list)
    layers: tuple[str, ...] = ()


def find_student_start(
    config: StudentConfig, teachers: Sequence[Teacher], read_lora: Callable[[str, str | None], Lora]
) -> StudentStart:
    """What `config.init` names: teachers by their names, else full weights and adapters by their paths.

    Args:
        config: of the student.
        teachers: of the run.
        read_lora: ``read_lora(path_or_repo, weight_name)``, of the base's architecture.

    Raises:
        ValueError: it names what is not there, or a teacher that has no weights of its own.
    """
    names = {config.init: 1.0} if isinstance(config.init, str) else config.init
    known = {teacher.name: teacher for teacher in teachers}
    start = StudentStart()
    for name, factor in names.items():
        if name == "base":  # whatever a teacher is called
            continue
        if name in known:
            teacher = known[name]
            if teacher.checkpoint is None and teacher.lora is None:
                _check_is_start(teacher, alone=isinstance(config.init, str))
            if teacher.checkpoint is not None:
                start.checkpoints.append((teacher.checkpoint, factor))
            if teacher.lora is not None:
                start.loras.append((read_lora(teacher.lora, teacher.weight_name), factor * teacher.scale))
        elif is_transformer(name):
            start.checkpoints.append((name, factor))
        else:
            start.loras.append((read_lora(name, None), factor))
    return start


def _check_is_start(teacher: Teacher, *, alone: bool) -> None:
    """Of teachers without weights only the plain base, and not in a sum of differences from the base."""
    plain = dataclasses.replace(teacher, name="base") == Teacher("base")
    if not plain:
        what = "guidance on the base" if teacher.identity is None else "a field of Python code"
        raise ValueError(
            f"student.init names teacher '{teacher.name}', which is {what} and has no weights "
            "to start from: start from 'base', and let a route ask that teacher."
        )
    if not alone:
        raise ValueError(
            f"student.init scales teacher '{teacher.name}', which is the base and differs in nothing from "
            "it: leave it out."
        )


def lora_student(
    model: nn.Module,
    adapter: str,
    config: StudentConfig,
    start: StudentStart,
    targets: Sequence[str],
    pipeline_class: Any,
) -> Export:
    """Add the student's adapter to the shared model and say how it is exported.

    Layers are those that `targets` name and those that the start changes. Where the start needs less than the
    student's rank, the rest begins as a fresh LoRA does, with a zero in the product.

    Raises:
        ValueError: the start has full weights, or changes layers that the model or `config.targets` has not.
    """
    if start.checkpoints:
        raise ValueError(
            f"student.init names the full weights '{start.checkpoints[0][0]}', which a LoRA on the base "
            "cannot hold: start from a LoRA, or set student.kind to 'full'."
        )
    for lora, _ in start.loras:
        try:
            check_fits(model, lora)
        except ValueError as error:
            raise ValueError(f"student.init is not for this model: {error}; name another start.") from None
    layers = list(start.layers) or _layers_of(model, config, start, targets)
    alpha = float(config.rank if config.alpha is None else config.alpha)
    add_adapter(model, adapter, dict.fromkeys(layers, config.rank), dict.fromkeys(layers, alpha))
    _fill(model, adapter, start.loras, config.rank, alpha / config.rank)

    def export(directory: Path, parameters: Mapping[str, Tensor]) -> Path:
        tensors = {
            parameter.replace(f".{adapter}.", "."): value.detach().cpu().contiguous()
            for parameter, value in parameters.items()
        }
        # The class writes what it reads itself, alpha included: without it, alpha would come back as the
        # rank.
        with keeping_mode(directory / LORA_FILE):
            pipeline_class.save_lora_weights(
                directory,
                transformer_lora_layers=tensors,
                transformer_lora_adapter_metadata=about,
                weight_name=LORA_FILE,
            )
        return directory / LORA_FILE

    about = {"r": config.rank, "lora_alpha": alpha, "target_modules": layers}
    return export


def _layers_of(
    model: nn.Module, config: StudentConfig, start: StudentStart, targets: Sequence[str]
) -> list[str]:
    layers = choose_layers(model, targets)
    started = [layer for lora, _ in start.loras for layer in lora]
    if config.targets is not None and (left := sorted(set(started) - set(layers))):
        raise ValueError(
            f"student.targets leaves out {left[0]}, which the student's start changes: add it to the targets."
        )
    return list(dict.fromkeys([*layers, *started]))


def _fill(model: nn.Module, adapter: str, loras: list[tuple[Lora, float]], rank: int, scale: float) -> None:
    fresh = {name: value for name, value in model.named_parameters() if is_factor(name, adapter)}
    filled: dict[str, Factors] = {}
    for name, value in fresh.items():
        layer, _, part = name.partition(".lora_")
        if part.startswith("A") and (factors := combine(loras, layer, rank, scale)) is not None:
            a = factors.a.to(value)
            # Zero in both factors could never learn; where B is not zero, the row is the start's own.
            unused = ~(a.any(dim=1) | factors.b.any(dim=0).to(a.device))
            a = torch.where(unused[:, None], value.detach(), a)
            filled[layer] = Factors(a, factors.b, factors.scale)
    set_factors(model, adapter, filled)


def full_student(model: nn.Module, start: StudentStart, full_model: Callable[[str], nn.Module]) -> Export:
    """Put the start into a model of the student's own, on the CPU, and say how it is exported.

    Raises:
        ValueError: a checkpoint or adapter of the start is of another model.
    """
    weights = model.state_dict()
    if start.checkpoints:
        states = [full_model(path).state_dict() for path, _ in start.checkpoints]
        weights = add_differences(weights, states, [factor for _, factor in start.checkpoints])
    for lora, _ in start.loras:
        try:
            check_fits(model, lora)
        except ValueError as error:
            raise ValueError(f"student.init is not for this model: {error}; name another start.") from None
    model.load_state_dict(add_to_weights(weights, start.loras))
    model.requires_grad_(True)

    def export(directory: Path, parameters: Mapping[str, Tensor]) -> Path:
        folder = directory / "transformer"
        folder.mkdir()
        own = model.state_dict()
        # One by one from fp32 on the device to the model's precision on the CPU.
        tensors = {
            name: parameters.get(name, value).detach().to("cpu", value.dtype) for name, value in own.items()
        }
        model.save_config(folder)  # type: ignore[operator]  # diffusers' ConfigMixin
        write_tensors(folder / "diffusion_pytorch_model.safetensors", tensors, {"format": "pt"})
        return folder

    return export


def is_transformer(path: str) -> bool:
    """Whether a path holds full weights: a pipeline's or transformer's folder, or a run that exported one."""
    return _transformer_folder(Path(path)) is not None


def other_transformer(checkpoint: ModelCheckpoint, path: str, dtype: torch.dtype) -> nn.Module:
    """A frozen transformer of the checkpoint's architecture with other full weights, on the CPU.

    Args:
        checkpoint: what the family was loaded from.
        path: a pipeline's folder, a transformer's, a run's, a safetensors file of the transformer's
            weights, or a repository of the Hugging Face Hub that holds a pipeline.
        dtype: of the weights.

    Raises:
        ValueError: nothing is there, or it is of another architecture; the message names the difference.
    """
    place = find_transformer(path)
    if place.is_dir():
        _check_same_class(checkpoint, place, path)
        model = checkpoint.transformer(dtype, place)
        _check_same_architecture(checkpoint, model, path)
        return model
    try:
        weights = load_file(place)
    except (SafetensorError, OSError) as error:
        reason = str(error).rstrip(".")
        raise ValueError(f"'{path}' cannot be read as safetensors ({reason}): fetch it again.") from None
    model = checkpoint.transformer(dtype)
    wanted = {name: value.shape for name, value in model.state_dict().items()}
    wrong = sorted(
        {name for name, shape in wanted.items() if name not in weights or weights[name].shape != shape}
        | (weights.keys() - wanted.keys())
    )
    if wrong:
        raise ValueError(
            f"'{path}' differs from the base's transformer in {len(wrong)} tensors (first '{wrong[0]}'): "
            "give weights of the same model under diffusers' names."
        )
    model.load_state_dict(weights)
    return model


def find_transformer(path: str) -> Path:
    """The folder or the safetensors file of full weights, for what `other_transformer` takes as a path.

    Raises:
        ValueError: nothing is there.
    """
    place = Path(path)
    if is_repository(path) and not place.exists():
        place = ModelCheckpoint(path).folder
    folder = _transformer_folder(place)
    if folder is None and (place.suffix != ".safetensors" or not place.is_file()):
        raise ValueError(
            f"the checkpoint '{path}' is not there: give a diffusers folder, or a .safetensors file of the "
            "transformer."
        )
    return folder or place


def _transformer_folder(path: Path) -> Path | None:
    for folder in (path / "transformer", path):
        if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
            return folder
    return None


def _check_same_class(checkpoint: ModelCheckpoint, folder: Path, path: str) -> None:
    """Looked at before any weight is read: another class would be made at its full default size."""
    kind = checkpoint.index["transformer"][1]
    try:
        other = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("_class_name", kind)
    except (OSError, ValueError, AttributeError):
        raise ValueError(
            f"the checkpoint '{path}' has a config.json that cannot be read: restore it."
        ) from None
    if other != kind:
        raise ValueError(
            f"the checkpoint '{path}' is of another model: it is a {other}, the base a {kind}; give one of "
            "the base's architecture."
        )


def _check_same_architecture(checkpoint: ModelCheckpoint, model: nn.Module, path: str) -> None:
    here, there = checkpoint.config("transformer"), dict(model.config)  # type: ignore[arg-type]
    for key in sorted(here):
        # Names and versions of files may differ; what is built from the rest may not.
        if not key.startswith("_") and key in there and _plain(here[key]) != _plain(there[key]):
            raise ValueError(
                f"the checkpoint '{path}' is of another model: its {key} is {there[key]}, the base's is "
                f"{here[key]}; give one of the base's architecture."
            )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value
