"""Adapters are put on the layers that they name, each at its own rank and strength."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from danceopd.families.lora import add_adapter, linear_layers

torch.set_num_threads(1)


def blocks(count: int) -> nn.Module:
    model = nn.Module()
    model.blocks = nn.ModuleList(
        nn.ModuleDict({"to_q": nn.Linear(8, 8), "to_k": nn.Linear(8, 8)}) for _ in range(count)
    )
    return model


@pytest.mark.parametrize("uneven", [False, True])
def test_each_layer_has_its_rank_and_scale(uneven: bool) -> None:
    model = blocks(6)
    names = list(linear_layers(model))[1:]
    ranks = {name: 1 + (number % 3 if uneven else 1) for number, name in enumerate(names)}
    alphas = {name: 4.0 + (number % 2 if uneven else 0) for number, name in enumerate(names)}
    add_adapter(model, "one", ranks, alphas)
    layers = {name: model.get_submodule(name) for name in names}
    assert {name: layer.r["one"] for name, layer in layers.items()} == ranks
    scales = {name: alphas[name] / ranks[name] for name in names}
    assert {name: layer.scaling["one"] for name, layer in layers.items()} == scales
    assert isinstance(model.get_submodule("blocks.0.to_q"), nn.Linear)  # the one that is not named
    # PEFT tries every expression on every layer: with one per layer, hundreds of layers take a minute.
    (config,) = model.peft_config.values()
    assert len(config.rank_pattern) == (2 if uneven else 0)
    assert len(config.alpha_pattern) == (1 if uneven else 0)
