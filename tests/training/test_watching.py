"""The guide to watching a run, followed as it is written."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from danceopd.training import DanceOPDTrainer, TrainConfig

GUIDE = (Path(__file__).parents[2] / "docs" / "watching.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)


def test_its_settings_are_settings() -> None:
    settings = blocks("yaml")
    assert settings
    for block in settings:
        TrainConfig(output_dir="unused", **yaml.safe_load(block))


def test_its_callback_watches_a_run(
    make_trainer: Callable[..., DanceOPDTrainer], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = blocks("python")
    names: dict[str, Any] = {"__name__": "guide"}
    exec(compile(code, "watching.md", "exec"), names)
    make_trainer(callbacks=[names["Alarm"]()], max_steps=1).train()
    assert capsys.readouterr().out == f"{tmp_path}/run/checkpoints/step-00000001 is whole\n"
