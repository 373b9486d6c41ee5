"""A checkpoint is recognised by its index, and what is wrong with one is told in one sentence."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from danceopd.families import Example, Teacher, load_family
from danceopd.families.checkpoint import ModelCheckpoint
from danceopd.families.pretrained import PretrainedFamily
from tests.families import tiny
from tests.families.parity import folder_of
from tests.families.tiny.words import PROMPTS

NAMES = {
    "sd3": "Stable Diffusion 3",
    "flux1": "FLUX.1",
    "flux2": "FLUX.2",
    "qwen": "Qwen-Image",
    "z-image": "Z-Image",
}


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_the_family_is_recognised_without_reading_weights(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "configs"
    shutil.copytree(folder_of(kind), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    family = load_family(folder, resolution=64)
    assert isinstance(family, PretrainedFamily)
    assert family.conventions.name == NAMES[next(name for name in NAMES if kind.startswith(name))]
    shape = family.shape(Example("x"))
    grid = family.grid(4, shape)
    assert grid.num_steps == 4 and len(shape) == 3


def refusal(folder: Path | str, **options: object) -> str:
    with pytest.raises(ValueError) as caught:
        load_family(folder, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_no_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    assert "is no diffusers checkpoint that can be read (model_index.json:" in refusal(tmp_path)
    index = tmp_path / "model_index.json"
    index.write_text("{")
    assert "is no diffusers checkpoint that can be read (model_index.json:" in refusal(tmp_path)
    index.write_text("[1]")
    assert "it holds no mapping" in refusal(tmp_path)
    index.write_text(json.dumps({"_class_name": "StableDiffusionXLPipeline"}))
    told = refusal(tmp_path)
    assert "is of the pipeline StableDiffusionXLPipeline, which no family here speaks for" in told
    assert all(name in told for name in NAMES.values()) and "docs/adding-a-family.md" in told
    index.write_text(json.dumps({"_class_name": "FluxPipeline"}))
    assert "has no component 'transformer'" in refusal(tmp_path)


@pytest.mark.parametrize("resolution", [8, 40])
def test_a_resolution_that_does_not_fit_is_one_sentence(resolution: int) -> None:
    told = refusal(folder_of("sd3"), resolution=resolution)
    assert f"resolution must be a multiple of 16 for Stable Diffusion 3, but got {resolution}: use " in told


def test_sizes_follow_the_example_then_the_source_then_the_resolution() -> None:
    family = load_family(folder_of("flux2-klein"), resolution=64)
    assert isinstance(family, PretrainedFamily)
    tall = torch.zeros(3, 300, 150, dtype=torch.uint8)
    assert family.size(Example("x", size=(32, 96))) == (32, 96)
    height, width = family.size(Example("x", (tall,)))
    assert height > width and height % 16 == width % 16 == 0
    assert family.size(Example("x")) == (64, 64)
    with pytest.raises(ValueError, match=r"size must be multiples of 16 for FLUX\.2, but got 30 x 32"):
        family.size(Example("x", size=(30, 32)))


@pytest.mark.parametrize("kind", ["sd3", "flux2-klein", "qwen-image", "z-image-omni"])
def test_encoders_and_decoders_with_holes_are_refused(kind: str, tmp_path: Path) -> None:
    folder = tiny.save(kind, tmp_path / kind)
    components = [path for path in folder.iterdir() if list(path.glob("*.safetensors"))]
    assert len(components) >= 3  # the transformer, the VAE and a text encoder at least
    for component in components:
        (file,) = component.glob("*.safetensors")
        whole = load_file(file)
        # A weight of a layer: embeddings may be there under another name as well.
        gone = next(name for name in whole if "layer" in name or "block" in name)
        save_file({name: t for name, t in whole.items() if name != gone}, file, {"format": "pt"})
        checkpoint = ModelCheckpoint(folder)
        with pytest.raises(ValueError, match=f"{component.name}' lacks 1 tensors of .* restore its files"):
            if component.name == "transformer":
                checkpoint.transformer(torch.float32)
            else:
                checkpoint.pipeline(torch.float32)
        save_file(whole, file, {"format": "pt"})


@pytest.mark.parametrize("library", ["shutil", "somebodys_code", "torch"])
def test_an_index_does_not_choose_what_is_imported(library: str, tmp_path: Path) -> None:
    folder = tiny.save("sd3", tmp_path / "sd3")
    index = json.loads((folder / "model_index.json").read_text())
    index["text_encoder"] = [library, "Encoder"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=f"component 'text_encoder' of '.*' is a 'Encoder' of '{library}'"):
        ModelCheckpoint(folder).pipeline(torch.float32)
    assert "somebodys_code" not in sys.modules


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    folder = tiny.save("sd3", tmp_path / "sd3")
    (file,) = (folder / "transformer").glob("*.safetensors")
    file.rename(file.with_suffix(".bin"))
    with pytest.raises(ValueError, match="cannot be loaded as SD3Transformer2DModel"):
        load_family(folder).teacher(Teacher("base"))


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="torchvision is installed")
def test_a_processor_that_needs_torchvision_says_so() -> None:
    family = load_family(folder_of("qwen-image-edit"), resolution=64)
    source = torch.zeros(3, 64, 64, dtype=torch.uint8)
    with pytest.raises(ImportError, match=r"not installed: pip install torchvision\."):
        family.encode([Example(PROMPTS[0], (source,))])


def test_imports_stay_light() -> None:
    code = (
        "import sys, danceopd as opd; opd.load_family, opd.DanceOPDTrainer, opd.Teacher; "
        "assert not {'diffusers', 'transformers', 'peft', 'datasets', 'pyarrow'} & sys.modules.keys()"
    )
    outcome = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr
