"""A trained student in the formats that others load, and the proof that they load it.

An adapter that loads as nothing looks like success, so every export is read back in a fresh process, by the
library that it is for, and its velocity compared with the student's.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from danceopd.families.base import Example, Student
from danceopd.families.lora import Factors, Lora, is_factor, linear_layers
from danceopd.families.pretrained import STUDENT, PretrainedFamily
from danceopd.families.students import LORA_FILE
from danceopd.files import write_tensors
from danceopd.flow import AdapterField, ModelField, VelocityField

Format = Literal["diffusers", "peft", "comfyui"]
FORMATS: Final[tuple[str, ...]] = get_args(Format)

_COMFYUI_FILE: Final = "comfyui_lora.safetensors"
# Every format holds the student's own numbers, and most come back to the last bit; where layers are fused
# and split again, sums are rounded in another order. Measured: 2.5 roundings in float32, none in bfloat16.
_ROUNDINGS: Final = 16
_PROBE_PROMPT: Final = "a photograph of a red house behind a green tree"


class ExportError(Exception):
    """An export that does not come back as the student."""


@dataclass(frozen=True)
class Exported:
    """What was written, and how near it came back.

    Attributes:
        path: the file or folder to load.
        error: largest difference of the reloaded velocity from the student's, relative to its largest value.
        effect: the same of the base's velocity: what a load that does nothing would have shown.
    """

    path: Path
    error: float
    effect: float


def export_student(family: PretrainedFamily, student: Student, folder: Path, format: Format) -> Exported:
    """Write the student into the new folder `folder` and load it back in a fresh process.

    Formats: ``diffusers`` is a file for ``pipe.load_lora_weights``, or a whole pipeline's folder where all
    weights were trained; ``peft`` a folder for ``PeftModel.from_pretrained``; ``comfyui`` one file with alpha
    beside the factors.

    Raises:
        ValueError: the format cannot hold the student, the folder is there already, or the student does not
            differ from its base.
        ExportError: what was written comes back as more than 16 roundings of the model's precision or a
            quarter of what was learned away from the student; nothing stays behind.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, but got '{format}': name one.")
    if folder.exists():
        raise ValueError(f"'{folder}' is there already: name a folder that is not.")
    adapters = any(is_factor(name, STUDENT) for name, _ in student.module.named_parameters())
    if not adapters and format != "diffusers":
        raise ValueError(f"format '{format}' holds a LoRA, but all weights were trained: use diffusers.")
    partial = folder.with_name(f".partial-{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        probe = _Probe.of(family, student)
        written = _write(family, student, partial, format if adapters else "full")
        error, effect = probe.read_back(family, partial, format if adapters else "full")
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Exported(folder / written.relative_to(partial), error, effect)


def student_lora(model: nn.Module, adapter: str = STUDENT) -> Lora:
    """The factors that an adapter of the model holds now, on the CPU."""
    parameters = {
        name: value.detach().cpu() for name, value in model.named_parameters() if is_factor(name, adapter)
    }
    return {
        layer: Factors(
            parameters[f"{layer}.lora_A.{adapter}.weight"],
            parameters[f"{layer}.lora_B.{adapter}.weight"],
            float(model.get_submodule(layer).scaling[adapter]),  # type: ignore[index]
        )
        for layer in linear_layers(model)
        if f"{layer}.lora_A.{adapter}.weight" in parameters
    }


def _write(family: PretrainedFamily, student: Student, folder: Path, format: str) -> Path:
    trained = dict(student.module.named_parameters())
    if format != "full":
        trained = {name: value for name, value in trained.items() if is_factor(name, STUDENT)}
    if format == "full":
        for name, kind in family.checkpoint.index.items():
            if isinstance(kind, list) and kind[0] and name != "transformer":
                shutil.copytree(family.checkpoint.folder / name, folder / name)
        shutil.copy(family.checkpoint.folder / "model_index.json", folder)
        student.export(folder, trained)
        return folder
    if format == "diffusers":
        return student.export(folder, trained)
    lora = student_lora(student.module)
    if format == "comfyui":
        return write_tensors(folder / _COMFYUI_FILE, family.conventions.comfyui(lora), {"format": "pt"})
    return _write_peft(lora, folder)


def _write_peft(lora: Lora, folder: Path) -> Path:
    from peft import LoraConfig

    ranks = {layer: factors.rank for layer, factors in lora.items()}
    first = next(iter(ranks.values()))
    scale = next(iter(lora.values())).scale
    LoraConfig(
        r=first,
        lora_alpha=scale * first,  # type: ignore[arg-type]  # PEFT divides by it as by any number
        target_modules=list(lora),
    ).save_pretrained(str(folder))
    tensors = {
        f"base_model.model.{layer}.lora_{part}.weight": tensor
        for layer, factors in lora.items()
        for part, tensor in (("A", factors.a), ("B", factors.b))
    }
    write_tensors(folder / "adapter_model.safetensors", tensors, {"format": "pt"})
    return folder


@dataclass(frozen=True)
class _Probe:
    """One question to the student and to its base, with their answers."""

    inputs: Mapping[str, Tensor]
    student: Tensor
    base: Tensor
    guidance: float | None

    @classmethod
    @torch.no_grad()
    def of(cls, family: PretrainedFamily, student: Student) -> _Probe:
        side = 4 * family.conventions.multiple
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (3, 2 * side, 2 * side), generator=generator, dtype=torch.uint8)
        sources = (pixels,) if family.conventions.needs_source else ()
        example = Example(_PROBE_PROMPT, sources, size=(side, side))
        condition = family.encode([example])
        family.release_encoders()
        sample = torch.randn(1, *family.shape(example), generator=generator).to(family.device)
        sigma = torch.tensor([0.6], device=family.device)
        (row,) = condition.rows
        inputs = {"sample": sample, "sigma": sigma}
        inputs |= {f"prompt.{name}": tensor for name, tensor in row.prompt.items()}
        for number, source in enumerate(row.sources):
            inputs |= {f"source{number}.{name}": tensor for name, tensor in source.items()}
        predict = student.field.predict  # type: ignore[attr-defined]
        if any(is_factor(name, STUDENT) for name, _ in student.module.named_parameters()):
            beneath: VelocityField = AdapterField(student.module, None, predict)
        else:
            plain = nn.Module.to(family.checkpoint.transformer(family.dtype), family.device)
            beneath = ModelField(plain, predict)
        base = beneath(sample, sigma, condition).float()
        return cls(inputs, student.field(sample, sigma, condition).float(), base, predict.guidance)

    def read_back(self, family: PretrainedFamily, folder: Path, format: str) -> tuple[float, float]:
        """How far the student in `folder` is from the student, and how far the base is."""
        effect = _distance(self.base, self.student)
        if effect == 0.0:
            raise ValueError("the student does not differ from its base: train it before it is exported.")
        answer = self._ask_fresh_process(family, folder, format)
        error = _distance(answer.to(self.student), self.student)
        allowed = min(_ROUNDINGS * torch.finfo(family.dtype).eps, effect / 4)
        if not error <= allowed:
            raise ExportError(
                f"the {format} export does not come back as the student: its velocity is {error:.1e} away "
                f"({allowed:.1e} is allowed, {effect:.1e} was learned); nothing was kept."
            )
        return error, effect

    def _ask_fresh_process(self, family: PretrainedFamily, folder: Path, format: str) -> Tensor:
        question, answer = folder / ".question.safetensors", folder / ".answer.safetensors"
        about = {
            "checkpoint": str(folder if format == "full" else family.checkpoint.folder),
            "export": str(folder),
            "format": format,
            "dtype": str(family.dtype).removeprefix("torch."),
            "device": str(family.device),
            "guidance": "" if self.guidance is None else repr(self.guidance),
        }
        save_file({name: tensor.cpu().contiguous() for name, tensor in self.inputs.items()}, question, about)
        command = [sys.executable, "-m", "danceopd.families.reload", str(question), str(answer)]
        outcome = subprocess.run(command, capture_output=True, text=True, check=False)
        if outcome.returncode != 0:
            reason = outcome.stderr.strip().splitlines()[-1:] or ["no message"]
            raise ExportError(f"the {format} export cannot be loaded back ({reason[0]}); nothing was kept.")
        velocity = load_file(answer)["velocity"]
        question.unlink()
        answer.unlink()
        return velocity


def _distance(value: Tensor, reference: Tensor) -> float:
    return float((value - reference).abs().max() / reference.abs().max())


__all__ = ["FORMATS", "LORA_FILE", "ExportError", "Exported", "Format", "export_student", "student_lora"]
