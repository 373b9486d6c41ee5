"""Teachers that are fields of Python code: how they are given, and what a run's folder knows of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from danceopd.settings import ConfigError
from danceopd.training import DanceOPDTrainer, RunConfig, Teacher, check_run, load_run_config
from tests.training.runs import MakeTrainer
from tests.training.tiny import TinyFamily


def halved(sample: Tensor, sigma: Tensor, condition: Any) -> Tensor:
    return sample / 2


OWN = (Teacher("one", checkpoint="1"), Teacher("two", field=halved, identity="half of the sample"))


def with_field(field: Any) -> tuple[Teacher, Teacher]:
    return OWN[0], Teacher("two", field=field, identity="of a test")


def test_a_run_with_an_own_field_is_known_by_its_identity(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    make_trainer(teachers=OWN, max_steps=2).train()
    made_of = json.loads((tmp_path / "run" / "provenance.json").read_text())["content"]
    assert made_of["teacher 'two'"] == {"field of Python code": "half of the sample"}
    assert make_trainer(teachers=OWN, max_steps=3).train().step == 3
    other = (OWN[0], Teacher("two", field=halved, identity="another"))
    with pytest.raises(ConfigError, match="'half of the sample' but 'another' is asked for"):
        make_trainer(teachers=other, max_steps=4).train()
    with pytest.raises(ConfigError, match="is asked for"):
        make_trainer(teachers=(OWN[0], Teacher("two")), max_steps=4).train()


def test_a_config_cannot_ask_an_own_field(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    make_trainer(teachers=OWN, max_steps=1).train()
    config = load_run_config(tmp_path / "run" / "config.yaml", ["max_steps=2"])
    with pytest.raises(ConfigError, match=r"go on from the script that made it, with Teacher\('two'"):
        DanceOPDTrainer(
            family=TinyFamily(torch.float32), teachers=config.teachers, routes=config.routes, config=config
        )


def test_a_field_that_was_assigned_is_noticed(
    make_trainer: MakeTrainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teachers = (OWN[0], Teacher("two"))
    for step in (1, 2):
        trainer = make_trainer(teachers=teachers, max_steps=step)
        trainer.teachers[1] = halved
        trainer.train()
        told = capsys.readouterr().err
        assert ("teacher 'two' was assigned to trainer.teachers" in told) == (step == 2)
    made_of = json.loads((tmp_path / "run" / "provenance.json").read_text())["content"]
    assert "unknown" in made_of["teacher 'two'"]["field of Python code"]
    with pytest.raises(ConfigError, match="is asked for"):
        make_trainer(teachers=teachers, max_steps=3).train()
    trainer = make_trainer(teachers=teachers, output_dir=tmp_path / "other")
    trainer.teachers.append(halved)
    with pytest.raises(ConfigError, match="holds 3 fields for 2 teachers"):
        trainer.train()


def test_the_guidance_of_a_teacher_is_put_on_its_field(make_trainer: MakeTrainer) -> None:
    guided = Teacher("two", field=halved, identity="half", guidance_scale=3.0)
    field = make_trainer(teachers=(OWN[0], guided)).teachers[1]
    assert (field.field, field.scale) == (halved, 3.0)  # type: ignore[attr-defined]


def test_an_own_field_is_checked_before_a_run(tmp_path: Path) -> None:
    config = RunConfig(
        family="tiny",
        teachers=[OWN[1]],
        routes=[{"teacher": "two", "data": "7"}],  # type: ignore[list-item]
        output_dir=tmp_path / "run",
        num_rollout_steps=4,
        max_steps=1,
    )
    (facts,) = check_run(config, family=TinyFamily(torch.float32)).report.teachers
    assert facts.what == "a field of Python code (half of the sample)"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"field": halved}, "has a field but no identity"),
        ({"field": 3, "identity": "x"}, r"callable of \(sample, sigma, condition\), but got int"),
        ({"field": nn.Linear, "identity": "x"}, "got the class Linear"),
        ({"field": lambda sample: sample, "identity": "x"}, r"but it takes \(sample\)"),
        ({"field": nn.Linear(1, 1), "identity": "x"}, "but it takes"),
        ({"field": halved, "identity": "x", "lora": "y"}, "lora='y': drop one of the two"),
    ],
)
def test_what_cannot_be_a_field_is_told(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Teacher("two", **keys)


@pytest.mark.parametrize(
    ("field", "error", "message"),
    [
        (lambda s, g, c: s.mul_(0), ValueError, "teacher 'two' wrote in place to the sample"),
        (lambda s, g, c: s * g.mul_(0)[:, None, None, None], ValueError, "in place to the sigma"),
        (lambda s, g, c: None, TypeError, "teacher 'two' returned NoneType in place of a velocity"),
        (lambda s, g, c: s[:, :1], ValueError, r"teacher 'two' returned a velocity of shape"),
    ],
)
@pytest.mark.parametrize("method", ["danceopd", "soft", "flowopd"])
def test_what_an_own_field_does_wrong_is_told_with_its_name(
    make_trainer: MakeTrainer, field: Any, error: type[Exception], message: str, method: str
) -> None:
    with pytest.raises(error, match=message):
        make_trainer(teachers=with_field(field), method=method).train()


class Noisy(nn.Module):
    def forward(self, sample: Tensor, sigma: Tensor, condition: Any) -> Tensor:
        return nn.functional.dropout(sample, training=self.training)


def test_a_module_that_is_in_training_mode_is_refused(
    make_trainer: Callable[..., DanceOPDTrainer], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"the Noisy of teacher 'two' is in training mode.*\.eval\(\)"):
        make_trainer(teachers=with_field(Noisy())).train()
    assert not (tmp_path / "run").exists()
    assert make_trainer(teachers=with_field(Noisy().eval()), max_steps=1).train().step == 1
