"""A LoRA is read whole, layer by layer and at its strength, or refused with the list of what is wrong."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

from danceopd.families.lora import Lora, linear_layers
from danceopd.families.lora_files import read_lora
from tests.families import tiny
from tests.families.tiny.loras import FORMATS, make_lora

torch.set_num_threads(1)

KINDS = ("sd3", "flux1-dev", "flux2-klein", "qwen-image", "z-image")
"""One for each class of transformer."""


@cache
def pipeline_of(kind: str) -> DiffusionPipeline:
    return tiny.build(kind)


def read(kind: str, path: Path | str, weight_name: str | None = None) -> Lora:
    pipeline = pipeline_of(kind)
    return read_lora(type(pipeline), linear_layers(pipeline.transformer), str(path), weight_name)


def refusal(kind: str, path: Path | str, weight_name: str | None = None) -> str:
    with pytest.raises(ValueError) as caught:
        read(kind, path, weight_name)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 900
    return message


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_every_layer_at_its_strength(kind: str, fmt: str, tmp_path: Path) -> None:
    made = make_lora(pipeline_of(kind).transformer, tmp_path, fmt=fmt, rank=4, alpha=8.0)
    lora = read(kind, made.path)
    assert lora.keys() == made.deltas.keys()
    for layer, factors in lora.items():
        torch.testing.assert_close(factors.scale * factors.b @ factors.a, made.deltas[layer])


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_one_factor_too_few_or_too_many_is_refused(kind: str, fmt: str, tmp_path: Path) -> None:
    path = make_lora(pipeline_of(kind).transformer, tmp_path, fmt=fmt).path
    file = path / "adapter_model.safetensors" if path.is_dir() else path
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith(".weight"))
    save_file({key: tensor for key, tensor in tensors.items() if key != name}, file)
    assert "has no two factors that fit" in refusal(kind, path)
    moved = {
        key.replace("attn", "attnn").replace("attention", "attn_x"): tensor.clone()
        for key, tensor in tensors.items()
    }
    save_file(tensors | moved, file)
    assert "belong to no layer of the transformer" in refusal(kind, path)


def test_layers_that_diffusers_itself_skips_are_read(tmp_path: Path) -> None:
    """Its conversion of kohya's FLUX.1 files loses their prefix, and its loader then drops them."""
    path = make_lora(pipeline_of("flux1-dev").transformer, tmp_path, fmt="kohya").path
    layer = linear_layers(pipeline_of("flux1-dev").transformer)["x_embedder"]
    extra = {"down": torch.ones(4, layer.in_features), "up": torch.ones(layer.out_features, 4)}
    extra = {f"lora_unet_img_in.lora_{part}.weight": tensor for part, tensor in extra.items()}
    save_file(load_file(path) | extra | {"lora_unet_img_in.alpha": torch.tensor(2.0)}, path)
    factors = read("flux1-dev", path)["x_embedder"]
    assert torch.equal(factors.scale * factors.b @ factors.a, torch.full_like(layer.weight, 2.0))


def test_a_conversion_that_skips_a_layer_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = type(pipeline_of("flux1-dev"))
    path = make_lora(pipeline_of("flux1-dev").transformer, tmp_path, fmt="kohya").path
    convert = pipeline.lora_state_dict

    def skipping(tensors: dict[str, torch.Tensor], return_alphas: bool) -> object:
        state, alphas = convert(tensors, return_alphas=return_alphas)
        stem = next(iter(state)).partition(".lora_")[0]
        return {name: tensor for name, tensor in state.items() if not name.startswith(f"{stem}.")}, alphas

    monkeypatch.setattr(pipeline, "lora_state_dict", skipping)
    assert "conversion skips a part of the file" in refusal("flux1-dev", path)


def test_peft_configs_are_read(tmp_path: Path) -> None:
    transformer = pipeline_of("sd3").transformer
    made = make_lora(transformer, tmp_path, fmt="peft", rank=4, alpha=8.0)
    config = tmp_path / "adapter_config.json"
    about = json.loads(config.read_text())
    layer = next(iter(made.deltas))

    def scale(**changes: object) -> float:
        config.write_text(json.dumps(about | changes))
        return read("sd3", tmp_path)[layer].scale

    assert scale() == 2.0
    assert scale(use_rslora=True) == 4.0
    assert scale(alpha_pattern={layer: 6.0}) == 1.5
    assert scale(alpha_pattern={"nothing": 6.0}) == 2.0
    for more in ({"use_dora": True}, {"bias": "all"}, {"modules_to_save": ["proj_out"]}):
        config.write_text(json.dumps(about | more))
        assert "more than a plain LoRA" in refusal("sd3", tmp_path)
    config.write_text("{")
    assert "adapter_config.json' cannot be read" in refusal("sd3", tmp_path)


# Qwen-Image's attention has SD3's names.
@pytest.mark.parametrize("other", [kind for kind in KINDS if kind not in ("sd3", "qwen-image")])
def test_a_lora_of_another_family_is_refused(other: str, tmp_path: Path) -> None:
    path = make_lora(pipeline_of(other).transformer, tmp_path).path
    assert "belong to no layer of the transformer" in refusal("sd3", path)


def test_other_files_are_refused_in_one_sentence(tmp_path: Path) -> None:
    kind, path = "sd3", tmp_path / "x.safetensors"
    assert "is not there: give a file, a folder or a repository" in refusal(kind, path)
    assert "holds no .safetensors file: name the one" in refusal(kind, tmp_path)
    path.write_bytes(b"")
    assert "cannot be read as safetensors" in refusal(kind, path)
    whole = make_lora(pipeline_of(kind).transformer, tmp_path / "whole").path
    path.write_bytes(whole.read_bytes()[:-100])
    assert "cannot be read as safetensors" in refusal(kind, path)
    save_file({}, path)
    assert "holds no tensors" in refusal(kind, path)
    save_file({"transformer.x.weight": torch.ones(2)}, path)
    assert "keys that are no LoRA factors (transformer.x.weight)" in refusal(kind, path)
    save_file(load_file(whole) | {"transformer.x.dora_scale": torch.ones(2)}, path)
    assert "is not a plain LoRA (transformer.x.dora_scale)" in refusal(kind, path)
    tensors = load_file(whole)
    next(iter(tensors.values())).fill_(float("nan"))
    save_file(tensors, path)
    assert "not finite" in refusal(kind, path)
    save_file(load_file(whole), path, {"lora_adapter_metadata": "[1"})
    assert "lora_adapter_metadata that cannot be read" in refusal(kind, path)
    pickle = tmp_path / "lora.bin"
    pickle.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    assert "a pickle may run any code" in refusal(kind, pickle)
    assert "a pickle may run any code" in refusal(kind, tmp_path, "lora.bin")


def test_the_file_in_a_folder_is_named_where_there_are_several(tmp_path: Path) -> None:
    transformer = pipeline_of("sd3").transformer
    for name, seed in (("a", 1), ("b", 2)):
        made = make_lora(transformer, tmp_path / name, seed=seed)
        made.path.rename(tmp_path / f"{name}.safetensors")
    assert "holds a.safetensors, b.safetensors: name the one" in refusal("sd3", tmp_path)
    assert len(read("sd3", tmp_path, "b.safetensors")) == len(made.deltas)
    assert "is not there: name another weight_name" in refusal("sd3", tmp_path, "c.safetensors")
    assert "weight_name is 'b.safetensors', but lora names the file" in refusal(
        "sd3", tmp_path / "a.safetensors", "b.safetensors"
    )


def test_a_factor_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = make_lora(pipeline_of("sd3").transformer, tmp_path).path
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith(".lora_A.weight"))
    save_file(tensors | {name.replace("lora_A", "lora_A.default"): tensors[name].clone()}, path)
    assert "holds two factors for" in refusal("sd3", path)
    other = {key.replace("transformer.", "", 1): tensor.clone() for key, tensor in tensors.items()}
    save_file(tensors | other, path)
    assert "twice, under two prefixes" in refusal("sd3", path)
