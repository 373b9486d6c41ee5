"""A config on the tiny family of the training tests."""

from __future__ import annotations

from pathlib import Path

import diffusers  # noqa: F401  # its first import may write to stderr, where the tests look for one sentence
import pytest
import torch

import danceopd.families
import danceopd.training.loading
from danceopd.families import usable_device
from tests.training.tiny import TinyFamily

CONFIG = """
output_dir: {folder}/run
family: tiny
max_steps: 4
batch_size: 2
gradient_accumulation_steps: 1
num_rollout_steps: 4
save_every: 2
progress: false
teachers:
  - {{name: one, checkpoint: "1"}}
routes:
  - {{teacher: one, data: "5"}}
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config file whose family is the tiny one."""

    def load_family(
        name: str, *, dtype: torch.dtype = torch.float32, device: str = "cpu", resolution: int | None = None
    ) -> TinyFamily:
        if name != "tiny":
            raise ValueError(f"family must be tiny, but got '{name}'; name that one.")
        assert usable_device(device) == torch.device("cpu")
        return TinyFamily(dtype)

    monkeypatch.setattr(danceopd.families, "load_family", load_family)
    monkeypatch.setattr(danceopd.training.loading, "load_family", load_family)
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(folder=tmp_path))
    return path
