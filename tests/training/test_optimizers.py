from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from danceopd.training import ConfigError, DanceOPDTrainer, TrainConfig, read_metrics
from danceopd.training.optimizers import moment_bytes
from danceopd.training.weights import TrainedWeights
from tests.training import tiny
from tests.training.test_trainer import comparable
from tests.training.tiny import TinyFamily

MakeTrainer = Callable[..., DanceOPDTrainer]


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nets whose weights are large enough for 8 bits: blocks of 256, and 4096 at least."""

    def init(self: tiny.TinyNet, seed: int, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.inner, self.outer = nn.Linear(tiny.SIZE + 5, 256), nn.Linear(256, tiny.SIZE)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
        self.to(dtype)

    monkeypatch.setattr(tiny.TinyNet, "__init__", init)


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_run_in_8_bits_learns_and_resumes_bit_for_bit(
    make_trainer: MakeTrainer, tmp_path: Path, dtype: torch.dtype
) -> None:
    settings: dict[str, Any] = {"optimizer": "adamw8bit", "dtype": dtype, "save_every": 100, "max_steps": 40}
    settings |= {"learning_rate": 2e-3, "weight_decay": 0.01, "lr_schedule": "constant", "warmup_steps": 3}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    make_trainer(**settings, output_dir=whole).train()
    make_trainer(**settings | {"max_steps": 15}, output_dir=parts).train()
    make_trainer(**settings, output_dir=parts).train()

    assert comparable(parts) == comparable(whole)
    losses = [line["loss"] for line in read_metrics(whole / "metrics.jsonl")]
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    for name in ("student", "optimizer"):
        one, other = (
            load_file(folder / "checkpoints" / "step-00000040" / f"{name}.safetensors")
            for folder in (whole, parts)
        )
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    kept = load_file(whole / "checkpoints" / "step-00000040" / "optimizer.safetensors")
    assert kept["inner.weight.exp_avg.codes"].dtype == torch.uint8
    assert kept["inner.bias.exp_avg"].dtype == torch.float32  # too small for blocks


def test_8_bits_follow_32_closely_and_take_a_quarter() -> None:
    def trained(optimizer: Any) -> tuple[nn.Module, TrainedWeights, TrainConfig]:
        config = TrainConfig(output_dir="unused", optimizer=optimizer, learning_rate=1e-3)
        generator = torch.Generator().manual_seed(0)
        module = nn.Linear(256, 64)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        weights = TrainedWeights(module, config)
        for _ in range(20):
            x = torch.randn(8, 256, generator=generator)
            module(x).square().mean().backward()
            weights.step(1e-3)
        return module, weights, config

    start = torch.Generator().manual_seed(0)
    first = torch.randn(64, 256, generator=start)
    (full, _, _), (low, weights, config) = trained("adamw"), trained("adamw8bit")
    moved = (full.weight - first).norm()
    assert 0 < (full.weight - low.weight).norm() < 0.05 * moved
    stored = sum(v.nbytes for name, v in weights.optimizer_tensors().items() if not name.endswith("step"))
    assert stored == moment_bytes(weights.masters.values(), config)
    assert stored < 0.35 * moment_bytes(weights.masters.values(), TrainConfig(output_dir="unused"))


def test_missing_torchao_is_told_in_a_sentence(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    monkeypatch.setattr(TinyFamily, "teacher", None)  # no model is read first
    with pytest.raises(ConfigError, match=r"'adamw8bit' is torchao's, which is not installed: pip install"):
        make_trainer(optimizer="adamw8bit")
