"""Exports come back as the student in a fresh process, and one that would do nothing is an error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

from danceopd.families import Student, StudentConfig, load_family
from danceopd.families import export as export_module
from danceopd.families.export import FORMATS, ExportError, export_student
from danceopd.families.lora import linear_layers
from danceopd.families.lora_files import read_lora
from danceopd.families.pretrained import PretrainedFamily
from tests.families import tiny
from tests.families.parity import folder_of
from tests.families.reloader import one_process
from tests.families.tiny.loras import ATTENTION, make_lora

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def fresh_process() -> Iterator[None]:
    with one_process():
        yield


def trained_student(
    model: str, *, dtype: torch.dtype = torch.float32, strength: float = 0.05, **settings: Any
) -> tuple[PretrainedFamily, Student]:
    family = load_family(folder_of(model), resolution=64, dtype=dtype)
    assert isinstance(family, PretrainedFamily)
    student = family.student(StudentConfig(**settings))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in student.module.parameters():
            if parameter.requires_grad:
                parameter.add_(strength * torch.randn(parameter.shape, generator=generator))
    return family, student


@pytest.mark.usefixtures("fresh_process")
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", ["sd3", "flux2-klein"])
def test_a_lora_comes_back_in_a_fresh_process(kind: str, format: Any, tmp_path: Path) -> None:
    family, student = trained_student(kind, rank=3, alpha=6.0)
    exported = export_student(family, student, tmp_path / "out", format)
    fused = kind == "flux2-klein" and format == "comfyui"  # sums rounded in another order
    assert exported.error <= (5e-7 if fused else 0.0) and exported.effect > 0.01
    assert exported.path.exists() and not list(tmp_path.glob(".*")) + list((tmp_path / "out").glob(".*"))
    # The package reads it too, as a teacher.
    lora = read_lora(family.checkpoint.pipeline_class, linear_layers(family.base), str(tmp_path / "out"))
    want = export_module.student_lora(student.module)
    assert lora.keys() == want.keys()
    for layer, factors in want.items():
        got = lora[layer]
        torch.testing.assert_close(got.scale * got.b @ got.a, factors.scale * factors.b @ factors.a)


@pytest.mark.usefixtures("fresh_process")
@pytest.mark.parametrize("format", FORMATS)
def test_a_bf16_student_that_has_learned_little_comes_back_to_the_bit(format: Any, tmp_path: Path) -> None:
    """Its effect is no larger than bfloat16's rounding."""
    family, student = trained_student("flux2-klein", dtype=torch.bfloat16, strength=2e-3, rank=3)
    exported = export_student(family, student, tmp_path / "out", format)
    assert exported.error == 0.0 < exported.effect < 4 * torch.finfo(torch.bfloat16).eps


@pytest.mark.usefixtures("fresh_process")
def test_comfyuis_names_are_the_makers_own(tmp_path: Path) -> None:
    targets = [*ATTENTION, "to_qkv_mlp_proj", "attn.to_out"]
    family, student = trained_student("flux2-klein", rank=3, targets=targets)
    path = export_student(family, student, tmp_path / "out", "comfyui").path
    made = make_lora(tiny.build("flux2-klein").transformer, tmp_path, fmt="comfyui")
    stems = {name.partition(".lora_")[0] for name in load_file(made.path)}
    assert {name.partition(".lora_")[0].removesuffix(".alpha") for name in load_file(path)} == stems


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [
        ("sd3", "transformer.transformer_blocks."),
        ("flux1-dev", "transformer.transformer_blocks."),
        ("flux2-klein", "diffusion_model.double_blocks."),
        ("qwen-image", "diffusion_model.transformer_blocks."),
        ("z-image", "diffusion_model.layers."),
    ],
)
def test_comfyuis_prefix_is_that_of_the_family(kind: str, prefix: str) -> None:
    """Under another one ComfyUI, by its source, loads nothing and only logs it."""
    family, student = trained_student(kind, rank=2)
    names = family.conventions.comfyui(export_module.student_lora(student.module))
    assert any(name.startswith(prefix) for name in names)
    assert {name.partition(".")[0] for name in names} == {prefix.partition(".")[0]}


@pytest.mark.usefixtures("fresh_process")
def test_a_full_student_becomes_a_whole_pipeline(tmp_path: Path) -> None:
    family, student = trained_student("sd3", kind="full")
    exported = export_student(family, student, tmp_path / "out", "diffusers")
    assert exported.error == 0.0 and exported.effect > 0.01
    pipeline = DiffusionPipeline.from_pretrained(exported.path)
    assert type(pipeline) is type(tiny.build("sd3"))
    with pytest.raises(ValueError, match="format 'peft' holds a LoRA, but all weights were trained"):
        export_student(family, student, tmp_path / "peft", "peft")
    assert not (tmp_path / "peft").exists()


def _without_effect(folder: Path) -> None:
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        zeros = {name: torch.zeros_like(t) if "lora_B" in name else t for name, t in tensors.items()}
        save_file(zeros, file)


def _at_half_strength(folder: Path) -> None:
    config = folder / "adapter_config.json"
    about = json.loads(config.read_text())
    config.write_text(json.dumps(about | {"lora_alpha": about["lora_alpha"] / 2}))


def _a_thousandth_stronger(folder: Path) -> None:
    config = folder / "adapter_config.json"
    about = json.loads(config.read_text())
    config.write_text(json.dumps(about | {"lora_alpha": about["lora_alpha"] * 1.001}))


def _damaged(folder: Path) -> None:
    for file in folder.glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-50])


@pytest.mark.usefixtures("fresh_process")
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_without_effect, "does not come back as the student"),
        (_at_half_strength, "does not come back as the student"),
        (_a_thousandth_stronger, "does not come back as the student"),
        (_damaged, "cannot be loaded back"),
    ],
)
def test_an_export_that_is_not_the_student_is_an_error(
    damage: Any, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, student = trained_student("sd3", rank=3, alpha=6.0)
    write = export_module._write

    def broken(*arguments: Any) -> Path:
        path = write(*arguments)
        damage(arguments[2])
        return path

    monkeypatch.setattr(export_module, "_write", broken)
    with pytest.raises(ExportError, match=words) as caught:
        export_student(family, student, tmp_path / "out", "peft")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_one_sentence(tmp_path: Path) -> None:
    family = load_family(folder_of("sd3"), resolution=64)
    assert isinstance(family, PretrainedFamily)
    fresh = family.student(StudentConfig(rank=2))
    with pytest.raises(ValueError, match="the student does not differ from its base"):
        export_student(family, fresh, tmp_path / "out", "diffusers")
    with pytest.raises(ValueError, match="format must be one of diffusers, peft, comfyui"):
        export_student(family, fresh, tmp_path / "out", "onnx")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="is there already"):
        export_student(family, fresh, tmp_path, "diffusers")
    assert list(tmp_path.iterdir()) == []
