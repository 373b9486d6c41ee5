"""The files under danceopd/shapesworld/experts, as they ship."""

from __future__ import annotations

import pytest
import torch

from danceopd.flow import AdapterField
from danceopd.shapesworld import EXPERTS, ShapesWorldFamily, evaluate
from danceopd.shapesworld.train_experts import RECIPES
from danceopd.shapesworld.weights import FOLDER, find_weights, read_weights

torch.set_num_threads(1)

OWN_GROUND = {"base": "t2i", "local": "local", "global": "global", "edit": "edit"}


def test_all_experts_ship_and_nothing_else() -> None:
    files = sorted(FOLDER.iterdir())
    assert [file.name for file in files] == sorted(f"{name}.safetensors" for name in EXPERTS)
    assert sum(file.stat().st_size for file in files) <= 8_000_000


@pytest.mark.parametrize("name", EXPERTS)
def test_an_expert_is_whole_and_tells_how_it_was_made(name: str) -> None:
    weights = read_weights(name)
    assert all(value.isfinite().all() for value in weights.tensors.values())
    ShapesWorldFamily().full_model(name)
    assert weights.metadata["expert"] == name
    assert weights.metadata["kind"] == ("lora" if weights.is_lora else "full")
    assert all(int(weights.metadata[key]) >= 0 for key in ("seed", "seconds"))
    assert int(weights.metadata["updates"]) == RECIPES[name].updates


# A third of what docs/shapesworld.md reports is lost to chance at most: 16 tasks per category.
@pytest.mark.parametrize(("name", "own"), [("base", 0.5), ("local", 0.7), ("global", 0.8), ("edit", 0.65)])
def test_an_expert_knows_its_own_ground_and_has_lost_the_others(name: str, own: float) -> None:
    family = ShapesWorldFamily()
    scores = evaluate(family, family.field(name), ["t2i", "local", "global", "edit"], prompts=16).grounds
    assert scores[OWN_GROUND[name]] > own
    foreign = {"base": ("local", "global"), "local": ("t2i", "global"), "global": ("t2i", "local")}
    assert all(scores[ground] < 0.25 for ground in foreign.get(name, ("t2i",)))


def test_edit_experts_share_the_base_in_memory() -> None:
    loras = [name for name in EXPERTS if read_weights(name).is_lora]
    family = ShapesWorldFamily()
    fields = [family.field(name) for name in loras]
    models = {id(field.model) for field in fields if isinstance(field, AdapterField)}
    assert len(models) == min(1, len(loras))
    assert all(find_weights(name).parent == FOLDER for name in EXPERTS)
