from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from danceopd.families.lora import is_factor
from danceopd.shapesworld import TaskSet, render
from danceopd.shapesworld.lora import (
    ABOUT,
    add_lora,
    factor_tensors,
    file_name,
    linear_layers,
    load_lora,
    lora_metadata,
    merge_lora,
    read_lora,
)
from danceopd.shapesworld.model import ShapesCondition, build_model, predict
from danceopd.shapesworld.weights import read_weights, write_weights

LAYERS = ("transformer_blocks.0.attn.to_q", "single_transformer_blocks.2.attn.to_out", "proj_out")
RANK, ALPHA = 2, 5.0


@pytest.fixture
def model() -> nn.Module:
    return build_model(0)


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    """A LoRA of LAYERS as a file holds it."""
    layers, stream = linear_layers(build_model(0)), torch.Generator().manual_seed(0)
    return factor_tensors(
        {
            name: (
                0.3 * torch.randn(RANK, layers[name].in_features, generator=stream),
                0.3 * torch.randn(layers[name].out_features, RANK, generator=stream),
            )
            for name in LAYERS
        }
    )


@pytest.fixture
def lora_file(tensors: dict[str, Tensor], tmp_path: Path) -> Path:
    about = {"kind": "lora", "base": "base", **lora_metadata(RANK, ALPHA, LAYERS)}
    return write_weights(tmp_path / "lora.safetensors", tensors, about)


def velocity(model: nn.Module) -> Tensor:
    tasks = [TaskSet("edit")[row] for row in range(3)]
    sources = list(render([task.source for task in tasks if task.source is not None]))
    condition = ShapesCondition.from_prompts([task.prompt for task in tasks], sources)
    sample = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return predict(model, sample, torch.tensor([0.9, 0.5, 0.1]), condition)


def test_targets_are_endings_or_full_names(model: nn.Module) -> None:
    assert len(linear_layers(model)) == 29
    assert list(linear_layers(model, ["proj_out"])) == ["proj_out"]
    assert len(linear_layers(model, ["to_qkv_mlp_proj"])) == 4
    assert list(linear_layers(model, ["to_q", "attn.to_q"])) == ["transformer_blocks.0.attn.to_q"]
    assert len(linear_layers(model, ["to_out", "to_out.0"])) == 5
    with pytest.raises(
        ValueError, match=r"targets names 'q', but no linear layer .* ends so: choose from .*to_out\.0"
    ):
        linear_layers(model, ["to_k", "q"])


def test_a_new_lora_is_the_identity_and_all_that_trains(model: nn.Module) -> None:
    before = velocity(model)
    model.requires_grad_(False)
    add_lora(model, "student", rank=RANK, alpha=ALPHA, layers=LAYERS)
    assert torch.equal(velocity(model), before)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert {
        file_name(name, "student").removeprefix("transformer.").split(".lora_")[0] for name in trained
    } == set(LAYERS)
    assert all(is_factor(name, "student") for name in trained)
    assert list(linear_layers(model)) == list(linear_layers(build_model(0)))


def test_another_lora_freezes_and_thaws_nothing(model: nn.Module, lora_file: Path) -> None:
    model.requires_grad_(False)
    add_lora(model, "student", rank=RANK, alpha=ALPHA, layers=LAYERS)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    load_lora(model, "teacher", read_lora(read_weights(str(lora_file)), model), scale=1.0)
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == trained


def test_a_trainable_model_stays_trainable(model: nn.Module) -> None:
    add_lora(model, "a", rank=RANK, alpha=ALPHA, layers=LAYERS)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_only_the_layers_named_get_factors(model: nn.Module) -> None:
    """`proj_out` by its full name is that layer alone, not every layer whose name ends so."""
    model.add_module("inner", nn.ModuleDict({"proj_out": nn.Linear(2, 2)}))
    add_lora(model, "a", rank=1, alpha=1.0, layers=["proj_out"])
    assert {file_name(name, "a") for name, _ in model.named_parameters() if is_factor(name, "a")} == {
        "transformer.proj_out.lora_A.weight",
        "transformer.proj_out.lora_B.weight",
    }


def test_injected_and_merged_are_the_same_model(model: nn.Module, lora_file: Path) -> None:
    lora = read_lora(read_weights(str(lora_file)), model)
    assert (lora.rank, lora.alpha, set(lora.factors)) == (RANK, ALPHA, set(LAYERS))
    plain, merged = velocity(model), build_model(0)
    merged.load_state_dict(merge_lora(model.state_dict(), lora))
    load_lora(model, "a", lora, scale=1.0)
    assert (velocity(model) - plain).norm() > 0.1
    torch.testing.assert_close(velocity(merged), velocity(model), rtol=1e-4, atol=1e-5)


def test_diffusers_reads_the_file_with_its_alpha(model: nn.Module, lora_file: Path) -> None:
    other = build_model(0)
    other.load_lora_adapter(str(lora_file), use_safetensors=True, adapter_name="a")
    used = {file_name(name, "a") for name, _ in other.named_parameters() if is_factor(name, "a")}
    assert used == read_weights(str(lora_file)).tensors.keys()
    load_lora(model, "a", read_lora(read_weights(str(lora_file)), model), scale=1.0)
    assert torch.equal(velocity(other), velocity(model))


def test_a_file_of_diffusers_is_read(model: nn.Module, lora_file: Path, tmp_path: Path) -> None:
    other = build_model(0)
    other.load_lora_adapter(str(lora_file), use_safetensors=True, adapter_name="a")
    other.save_lora_adapter(tmp_path / "saved", adapter_name="a")
    (saved,) = (tmp_path / "saved").iterdir()
    tensors = {
        f"transformer.{name.removeprefix('transformer.')}": value
        for name, value in read_weights(str(saved)).tensors.items()
    }
    plain = write_weights(tmp_path / "plain.safetensors", tensors, {})
    lora = read_lora(read_weights(str(plain)), model)
    assert (lora.rank, lora.alpha) == (RANK, RANK)  # a file that does not say means alpha = rank


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"transformer.proj_out.lora_A.weight": None},
            "factors of layer 'proj_out' have the shapes (None, (48, 2))",
        ),
        (
            {"transformer.proj_out.lora_B.weight": torch.zeros(48, 3)},
            "layer 'proj_out' have the shapes ((2, 96), (48, 3))",
        ),
        (
            {"transformer.nowhere.lora_A.weight": torch.zeros(2, 96)},
            "no place for 'transformer.nowhere.lora_A.weight'",
        ),
        (
            {"transformer.proj_out.lora_magnitude_vector": torch.zeros(48)},
            "no place for 'transformer.proj_out.lora_mag",
        ),
    ],
)
def test_other_tensors_are_refused(
    change: dict[str, Tensor | None],
    message: str,
    model: nn.Module,
    tensors: dict[str, Tensor],
    tmp_path: Path,
) -> None:
    changed = {name: value for name, value in (tensors | change).items() if value is not None}
    path = write_weights(tmp_path / "x.safetensors", changed, lora_metadata(RANK, ALPHA, LAYERS))
    with pytest.raises(ValueError) as error:
        read_lora(read_weights(str(path)), model)
    assert message in str(error.value)
    assert str(error.value).startswith(f"{path} is no LoRA of ShapesWorld's model (")


def test_full_weights_are_no_lora(model: nn.Module, random_experts: Path) -> None:
    with pytest.raises(ValueError, match="is no LoRA of ShapesWorld's model"):
        read_lora(read_weights(str(random_experts / "base.safetensors")), model)


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ("{", f"its {ABOUT} cannot be read"),
        ("[1]", f"its {ABOUT} cannot be read"),
        (json.dumps({"transformer.lora_alpha": "much"}), f"its {ABOUT} cannot be read"),
        (
            json.dumps({"transformer.alpha_pattern": {"proj_out": 3}}),
            "its strength is not alpha / rank in every layer",
        ),
        (json.dumps({"transformer.use_rslora": True}), "its strength is not alpha / rank"),
    ],
)
def test_other_metadata_is_refused(
    about: str, message: str, model: nn.Module, tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    path = write_weights(tmp_path / "x.safetensors", tensors, {ABOUT: about})
    with pytest.raises(ValueError) as error:
        read_lora(read_weights(str(path)), model)
    assert message in str(error.value)
