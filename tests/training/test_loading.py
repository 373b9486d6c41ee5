"""A run's student is read back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from danceopd.families import usable_device
from danceopd.training import (
    CheckpointError,
    ConfigError,
    load_student,
    write_config,
)
from tests.training.runs import MakeTrainer, bits
from tests.training.states import edit_state
from tests.training.tiny import TinyFamily


def test_a_run_of_a_gpu_goes_on_and_is_read_where_there_is_none(
    make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import danceopd.training.loading as loading

    def load_family(name: str, *, dtype: torch.dtype, device: str, resolution: int | None) -> TinyFamily:
        assert usable_device(device).type == "cpu"
        return TinyFamily(dtype)

    monkeypatch.setattr(loading, "load_family", load_family)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    make_trainer(max_steps=7).train()
    state = tmp_path / "run/checkpoints/step-00000007/state.json"
    edit_state(state, lambda saved: saved["run"].update(device="cuda"))
    config = tmp_path / "run/config.yaml"
    assert config.read_text().count("cpu") == 1
    config.write_text(config.read_text().replace("cpu", "cuda"))

    with pytest.raises(ValueError, match=r"device 'cuda' is not here: torch sees 0 CUDA device"):
        load_student(tmp_path / "run")
    assert load_student(tmp_path / "run", device="cpu").step == 7

    assert make_trainer().train().step == 12
    make_trainer(output_dir=tmp_path / "whole").train()
    assert bits(tmp_path / "run", 12) == bits(tmp_path / "whole", 12)
    assert load_student(tmp_path / "run").config.device == "cpu"


def test_the_student_of_a_run_is_read_back(
    make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import danceopd.training.loading as loading

    monkeypatch.setattr(loading, "load_family", lambda name, *, dtype, device, resolution: TinyFamily(dtype))
    trainer = make_trainer(ema_decay=0.9)
    trainer.train()
    loaded = load_student(tmp_path / "run")
    assert (loaded.step, loaded.config.max_steps) == (12, 12)
    assert trainer.mean is not None
    trainer.weights.load(trainer.mean.mean, {})
    slots = trainer.plan.step(0)
    condition = trainer.family.encode([trainer.data[slot.route][slot.row] for slot in slots])
    sample, sigma = torch.ones(6, 3, 4, 4), torch.full((6,), 0.5)
    velocity = loaded.field(sample, sigma, condition)
    assert not velocity.requires_grad
    assert torch.equal(velocity, trainer.student.field(sample, sigma, condition).detach())


def test_a_folder_without_a_run_or_checkpoint_is_told(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no config\.yaml"):
        load_student(tmp_path)
    write_config(make_trainer().run, tmp_path / "config.yaml")
    with pytest.raises(CheckpointError, match="has no checkpoint yet"):
        load_student(tmp_path)


def test_a_checkpoint_of_a_run_is_read_by_its_folder(
    make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_trainer(max_steps=7).train()
    monkeypatch.chdir(tmp_path / "run" / "checkpoints")
    family = TinyFamily(torch.float32)
    older = load_student("step-00000005", family=family)
    assert (older.step, load_student(tmp_path / "run", family=family).step) == (5, 7)
    assert repr(older) == "LoadedStudent(family='tiny', step=5, kind='auto')"
    with pytest.raises(CheckpointError):
        load_student("step-00000006", family=family)
