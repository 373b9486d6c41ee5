"""The LoRAs made for the tests are what diffusers loads, to the last bit of their strength."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftConfig
from safetensors.torch import load_file

from tests.families import tiny
from tests.families.tiny.calls import difference
from tests.families.tiny.loras import CONVERTED, FORMATS, Lora, make_lora


@pytest.mark.parametrize(
    ("kind", "fmt"), [(kind, fmt) for kind, formats in CONVERTED.items() for fmt in formats]
)
def test_diffusers_adds_the_deltas_and_nothing_else(kind: str, fmt: str, tmp_path: Path) -> None:
    pipeline = tiny.build(kind)
    before = {name: weight.clone() for name, weight in pipeline.transformer.named_parameters()}
    lora = make_lora(pipeline.transformer, tmp_path, fmt=fmt)
    pipeline.load_lora_weights(tmp_path, weight_name=lora.path.name)
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    for name, weight in pipeline.transformer.named_parameters():
        delta = lora.deltas.get(name.removesuffix(".weight"))
        if delta is None:
            assert torch.equal(weight, before[name])
        else:
            assert difference(weight - before[name], delta) < 1e-5


@pytest.mark.parametrize("kind", CONVERTED)
def test_a_peft_folder_says_rank_alpha_and_targets(kind: str, tmp_path: Path) -> None:
    transformer = tiny.build(kind).transformer
    lora = make_lora(transformer, tmp_path, fmt="peft", rank=3, alpha=6.0)
    config = PeftConfig.from_pretrained(str(tmp_path))
    weights = load_file(lora.path / "adapter_model.safetensors")
    assert (config.r, config.lora_alpha, set(config.target_modules)) == (3, 6.0, set(lora.deltas))
    for name, delta in lora.deltas.items():
        down, up = (weights[f"base_model.model.{name}.lora_{letter}.weight"] for letter in "AB")
        assert difference(2.0 * up @ down, delta) < 1e-5


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_lora_is_a_function_of_its_seed(fmt: str, tmp_path: Path) -> None:
    transformer = tiny.build("qwen-image").transformer

    def made(folder: str, seed: int) -> Lora:
        return make_lora(transformer, tmp_path / folder, fmt=fmt, seed=seed)

    first, again, other = made("first", 0), made("again", 0), made("other", 1)
    assert all(torch.equal(delta, again.deltas[name]) for name, delta in first.deltas.items())
    assert not any(torch.equal(delta, other.deltas[name]) for name, delta in first.deltas.items())


def test_part_of_a_fused_layer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"targets must name all of .*img_attn\.qkv"):
        make_lora(tiny.build("flux2-klein").transformer, tmp_path, fmt="kohya", targets=("to_q",))
