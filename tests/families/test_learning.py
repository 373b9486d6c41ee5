"""A student on a shared base learns its teachers, in both precisions, from every kind of data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from danceopd.cli import app
from danceopd.families import StudentConfig, Teacher
from danceopd.training import Route, TrainConfig
from danceopd.training.config import as_mapping
from danceopd.training.config_file import write_config
from tests.families.test_training import make_run, metrics, trainer_of
from tests.families.tiny.words import PROMPTS

torch.set_num_threads(1)


def teacher_losses(folder: Path, **settings: Any) -> list[float]:
    """Losses of a run from the base towards one LoRA, on prompts and on edits."""
    config = make_run("flux2-klein", folder)
    routes = [Route("one", data=route.data) for route in config.routes[:2]]
    longer = replace(
        config,
        student=StudentConfig(rank=8, **settings.pop("student", {})),
        routes=routes,
        max_steps=16,
        batch_size=6,
        gradient_accumulation_steps=1,
        num_rollout_steps=2,
        drop_condition=0.0,
        learning_rate=2e-2,
        save_every=100,
        **settings,
    )
    trainer_of(longer).train()
    return [line["loss"] for line in metrics(folder / "run")]


@pytest.mark.parametrize(
    ("dtype", "student"),
    [("float32", {}), ("bfloat16", {"gradient_checkpointing": True})],
)
def test_a_student_comes_near_its_teachers(dtype: str, student: dict[str, Any], tmp_path: Path) -> None:
    losses = teacher_losses(tmp_path, dtype=dtype, student=student)
    # A student that learns nothing comes to 0.93 on these draws, this one to 0.7.
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4]), losses


def test_a_bf16_student_has_fp32_masters(tmp_path: Path) -> None:
    trainer = trainer_of(make_run("sd3", tmp_path, dtype="bfloat16"))
    trainer.train()
    parameters = {name: p for name, p in trainer.student.module.named_parameters() if p.requires_grad}
    assert {p.dtype for p in parameters.values()} == {torch.bfloat16}
    assert trainer.weights.masters.keys() == parameters.keys()
    assert {master.dtype for master in trainer.weights.masters.values()} == {torch.float32}
    moved = [(trainer.weights.masters[name] - p.float()).abs().max() for name, p in parameters.items()]
    assert max(moved) > 0  # what bf16 would have rounded away
    assert all(torch.equal(trainer.weights.masters[name].bfloat16(), p) for name, p in parameters.items())


def test_a_full_student_trains_beside_its_teachers(tmp_path: Path) -> None:
    config = make_run("sd3", tmp_path, student=StudentConfig(kind="full"), ema_decay=0.9)
    trainer = trainer_of(config)
    result = trainer.train()
    assert result.exported == tmp_path / "run" / "transformer"
    assert trainer.family.base is not trainer.student.module  # type: ignore[attr-defined]
    assert not any(p.requires_grad for p in trainer.family.base.parameters())  # type: ignore[attr-defined]


def test_rows_may_be_a_dataset_in_memory(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"caption": list(PROMPTS), "other": [1, 2, 3]})
    routes = [Route("base", data=rows, columns={"prompt": "caption"})]
    config = make_run("sd3", tmp_path)
    settings = {name: getattr(config, name) for name in TrainConfig.__dataclass_fields__}
    train = TrainConfig(**settings | {"student": StudentConfig(rank=2)})
    from danceopd.families import load_family
    from danceopd.training import DanceOPDTrainer

    family = load_family(config.family, resolution=64)
    teachers = [Teacher("base", guidance_scale=2.0)]
    trainer = DanceOPDTrainer(family=family, teachers=teachers, routes=routes, config=train)
    assert trainer.train().step == 3
    assert as_mapping(trainer.run)["routes"][0]["data"].startswith("<dataset ")
    json.dumps(as_mapping(trainer.run))


def test_the_command_line_trains_and_exports(tmp_path: Path) -> None:
    write_config(make_run("sd3", tmp_path), tmp_path / "config.yaml")
    runner = CliRunner()
    result = runner.invoke(app, ["train", str(tmp_path / "config.yaml")])
    assert result.exit_code == 0, result.output
    result = runner.invoke(app, ["export", str(tmp_path / "run"), "--format", "peft"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "export-peft" / "adapter_config.json").is_file()
    assert "loaded back with an error of" in result.stderr
    result = runner.invoke(app, ["export", str(tmp_path / "run"), "--format", "peft"])
    assert result.exit_code == 2 and "is there already" in result.stderr
