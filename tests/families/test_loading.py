"""A finished run is read from its folder and the family's checkpoint: what it started from may be gone."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from danceopd.families import StudentConfig
from danceopd.families.pretrained import PretrainedFamily
from danceopd.training import CheckpointError, RunConfig, load_student
from danceopd.training.config_file import write_config
from tests.families import tiny
from tests.families.fields import velocity
from tests.families.parity import folder_of
from tests.families.test_training import make_run, trainer_of
from tests.families.tiny.loras import make_lora

torch.set_num_threads(1)

KIND = "sd3"


def trained_run(folder: Path, init: Any, **student: Any) -> tuple[RunConfig, Tensor]:
    """A run of one update and the velocity of its student."""
    config = make_run(KIND, folder, student=StudentConfig(init=init, **student), max_steps=1)
    trainer = trainer_of(config)
    trainer.train()
    assert isinstance(trainer.family, PretrainedFamily)
    return config, velocity(trainer.family, trainer.student.field)


def reloaded(config: RunConfig) -> Tensor:
    loaded = load_student(config.output_dir)
    assert isinstance(loaded.family, PretrainedFamily)
    return velocity(loaded.family, loaded.field)


def wide_lora(folder: Path) -> str:
    """On layers that a student has from it alone."""
    transformer = tiny.build(KIND).transformer
    return str(make_lora(transformer, folder / "wide", targets=("to_q", "ff.net.2"), seed=4).path)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_run_outlives_the_files_that_it_started_from(kind: Any, tmp_path: Path) -> None:
    start = {"one": 0.5, wide_lora(tmp_path): 1.0}
    rank = {"rank": 6} if kind == "lora" else {}
    config, wanted = trained_run(tmp_path, start, kind=kind, **rank)
    for folder in tmp_path.iterdir():
        if folder.is_dir() and folder.name != "run":
            shutil.rmtree(folder)
    assert torch.equal(reloaded(config), wanted)


def test_a_run_outlives_the_checkpoint_that_it_started_from(tmp_path: Path) -> None:
    other = tiny.save(KIND, tmp_path / "other", seed=5)
    config, wanted = trained_run(tmp_path, str(other), kind="full")
    shutil.rmtree(other)
    assert torch.equal(reloaded(config), wanted)


def test_without_its_base_a_run_is_one_sentence(tmp_path: Path) -> None:
    family = Path(shutil.copytree(folder_of(KIND), tmp_path / "base"))
    run = make_run(KIND, tmp_path, max_steps=1)
    config = replace(run, family=str(family), student=StudentConfig(rank=2))
    trainer_of(config).train()
    (weights,) = (family / "transformer").glob("*.safetensors")
    weights.unlink()
    with pytest.raises(ValueError, match=r"transformer' cannot be loaded as .*: restore its files") as caught:
        load_student(config.output_dir)
    assert "\n" not in str(caught.value)
    shutil.rmtree(family)
    with pytest.raises(ValueError, match=r"^family '.*base' is neither shapesworld, nor a folder") as caught:
        load_student(config.output_dir)
    assert "\n" not in str(caught.value)


def test_weights_of_another_student_are_told(tmp_path: Path) -> None:
    config, _ = trained_run(tmp_path, "base", rank=4)
    write_config(replace(config, student=StudentConfig(kind="full")), tmp_path / "run" / "config.yaml")
    with pytest.raises(CheckpointError, match="the checkpoint does not fit the student"):
        load_student(config.output_dir)
