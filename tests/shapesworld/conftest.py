from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from danceopd.shapesworld import EXPERTS, ShapesWorldFamily, weights
from danceopd.shapesworld.model import build_model

torch.set_num_threads(1)  # nets this small only lose time to threads, most of all beside another busy process


@pytest.fixture(scope="session")
def random_experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained expert under every shipped name."""
    folder = tmp_path_factory.mktemp("experts")
    for seed, name in enumerate(EXPERTS):
        weights.write_weights(
            folder / f"{name}.safetensors", build_model(seed).state_dict(), {"kind": "full"}
        )
    return folder


@pytest.fixture
def family(random_experts: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ShapesWorldFamily]:
    """The family, its experts untrained ones."""
    monkeypatch.setattr(weights, "FOLDER", random_experts)
    yield ShapesWorldFamily()
