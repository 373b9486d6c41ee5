from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from danceopd.training import ConfigError, DanceOPDTrainer, DivergedError, Route, Teacher
from danceopd.training import trackers as trackers_module
from tests.training.tiny import TinyFamily

MakeTrainer = Callable[..., DanceOPDTrainer]


class FakeRun:
    """What `init` of wandb and of trackio return, as far as accelerate uses it."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.finished = False

    def log(self, values: dict[str, Any], step: int) -> None:
        assert not self.finished
        self.logged.append((step, values))

    def finish(self) -> None:
        assert not self.finished
        self.finished = True


class FakePackage(ModuleType):
    """Stands in for wandb or trackio."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)
        self.config = self
        self.runs: list[FakeRun] = []
        self.settings: dict[str, Any] = {}

    def init(self, **settings: Any) -> FakeRun:
        self.runs.append(FakeRun(**settings))
        return self.runs[-1]

    def update(self, values: dict[str, Any], allow_val_change: bool) -> None:
        assert allow_val_change
        self.settings = values

    def Image(self, pixels: Any) -> Any:
        return "image", pixels


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakePackage]:
    fakes = {name: FakePackage(name) for name in ("wandb", "trackio")}
    for name, fake in fakes.items():
        monkeypatch.setitem(sys.modules, name, fake)
    return fakes


def image_steps(run: FakeRun) -> list[int]:
    return [step for step, values in run.logged if "validation/grid" in values]


def test_every_tracker_gets_settings_metrics_and_pictures(
    make_trainer: MakeTrainer, packages: dict[str, FakePackage], tmp_path: Path
) -> None:
    settings = {"report_to": ["wandb", "trackio"], "validation": {"every": 6, "rows": 1}}
    make_trainer(**settings, max_steps=7, log_every=2).train()
    for name in ("wandb", "trackio"):
        (run,) = packages[name].runs
        assert run.finished and image_steps(run) == [0, 6, 7]
        assert [step for step, values in run.logged if "train/loss" in values] == [2, 4, 6]
        assert packages[name].settings["routes"][1]["weight"] == 2.0
        _, line = next(entry for entry in run.logged if "train/loss" in entry[1])
        numbers = {"train/loss", "train/grad_norm", "train/learning_rate", "time/samples_per_second"}
        assert numbers | {"losses/one", "losses/two"} <= line.keys()
    _, values = packages["wandb"].runs[0].logged[0]
    kind, pixels = values["validation/grid"][0]
    assert kind == "image" and pixels.dtype == np.uint8 and pixels.shape[-1] == 3

    # Continued: the same run of the tracker, from the next step on.
    make_trainer(**settings).train()
    for name in ("wandb", "trackio"):
        first, second = packages[name].runs
        key = {"wandb": "id", "trackio": "name"}[name]
        assert first.settings[key] == second.settings[key] and second.settings["resume"] == "allow"
        assert first.settings["project"] == "danceopd" and first.settings[key].startswith("run-")
        assert [step for step, values in second.logged if "train/loss" in values] == [8, 9, 10, 11, 12]


def test_another_run_is_another_run_of_the_tracker(
    make_trainer: MakeTrainer,
    packages: dict[str, FakePackage],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    for place in ("a", "b"):
        make_trainer(report_to=["wandb"], max_steps=1, output_dir=tmp_path / place / "run").train()
    one, other = packages["wandb"].runs
    assert one.settings["id"] != other.settings["id"]
    assert one.settings["project"] == "mine" and one.settings["name"] == "run"


def test_a_tracker_is_closed_when_a_run_fails(
    make_trainer: MakeTrainer, packages: dict[str, FakePackage]
) -> None:
    trainer = make_trainer(
        teachers=[Teacher("one", checkpoint="nan")], routes=[Route("one", data="7")], report_to=["wandb"]
    )
    with pytest.raises(DivergedError):
        trainer.train()
    assert packages["wandb"].runs[0].finished


def test_a_missing_package_is_told_before_anything_is_written(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(trackers_module, "find_spec", lambda name: None)
    monkeypatch.setattr(TinyFamily, "teacher", None)  # no model is read first
    with pytest.raises(ConfigError) as error:
        make_trainer(report_to=["trackio"])
    assert str(error.value) == (
        "report_to names 'trackio', but its package is not installed: pip install trackio."
    )
    assert not list(tmp_path.iterdir())
    with pytest.raises(
        ConfigError, match=r"report_to\.0 must be 'tensorboard', 'wandb' or 'trackio', got 'wb'"
    ):
        make_trainer(report_to=["wb"])


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of its own imports
def test_tensorboard_reads_one_run_with_one_axis(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = {"report_to": ["tensorboard"], "validation": {"every": 4, "rows": 1}}
    make_trainer(**settings, max_steps=5, save_every=3).train()
    # As after a kill: the newest checkpoint is older than what was reported.
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000005")
    make_trainer(**settings, max_steps=8).train()
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, 9))
    assert "losses/one" in events.Tags()["scalars"]
    assert [event.step for event in events.Images("validation/grid")] == [0, 4, 8]
    assert "config/text_summary" in events.Tags()["tensors"]
