from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
from pydantic import Field
from typer.testing import CliRunner

from danceopd.cli import app
from danceopd.families import StudentConfig, Teacher
from danceopd.methods import METHODS
from danceopd.settings import Integer, settings
from danceopd.training import QuerySettings, Route, RunConfig, ValidationSettings, settings_help
from danceopd.training.settings_help import Key, describe_settings

CLASSES: list[Any] = [
    RunConfig, Teacher, Route, StudentConfig, QuerySettings, ValidationSettings, *METHODS.values()
]  # fmt: skip


@pytest.fixture(scope="module")
def shown() -> str:
    """The help on a terminal wide enough that no line is broken."""
    result = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "1000"})
    assert result.exit_code == 0, result.output
    return re.sub(r"[ \t]+", " ", result.output)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_the_help_of_train_names_and_explains_every_key(cls: Any, shown: str) -> None:
    for field in dataclasses.fields(cls):
        if cls.__pydantic_fields__[field.name].exclude:  # of Python alone
            assert f"\n {field.name} " not in shown
            continue
        text = cls.__pydantic_fields__[field.name].description
        assert text, f"{cls.__name__}.{field.name} says nothing"
        assert f"\n {field.name} {text} [" in shown, f"{cls.__name__}.{field.name}"


def test_the_usual_help_comes_first(shown: str) -> None:
    assert shown.index("Usage:") < shown.index("--resume") < shown.index("Keys of CONFIG")


@pytest.mark.parametrize(
    ("group", "key", "note"),
    [
        ("Optimisation", "max_steps", "integer, at least 1; default: 3000"),
        ("Optimisation", "adam_beta1", "number, at least 0, below 1; default: 0.9"),
        ("Optimisation", "seed", "integer, at least 0, below 2**63; default: 0"),
        ("Optimisation", "ema_decay", "number or null, above 0, below 1; default: null"),
        ("Optimisation", "lr_schedule", "constant | linear | cosine; default: constant"),
        ("Output and watching", "output_dir", "path of a folder; required"),
        ("Output and watching", "progress", "true or false; default: true"),
        ("Output and watching", "report_to", "list of tensorboard | wandb | trackio; default: []"),
        ("Models and data", "routes", "list of mapping (see below); required"),
        ("Models and data", "student", "mapping (see below)"),
        ("Method", "method", "name or mapping (see below); default: danceopd"),
        ("Method", "query", "name or mapping (see below) or null; default: null"),
        ("teachers.N.", "name", "text; required"),
        ("routes.N.", "columns", "mapping of text to text or null; default: null"),
        ("student.", "init", "text or mapping of text to number; default: base"),
        ("validation.", "data", "text or null; default: null"),
        ("validation.", "prompts", "list of text or null, 1 or more; default: null"),
    ],
)
def test_type_range_and_default_are_told(group: str, key: str, note: str) -> None:
    (found,) = (g for g in describe_settings() if g.title == group)
    assert {k.name: k.note for k in found.keys}[key] == note


def test_no_key_of_the_top_level_is_there_twice_or_left_to_the_last_group() -> None:
    titles = list(settings_help._TITLES)
    names = [key.name for group in describe_settings() if group.title in titles for key in group.keys]
    assert sorted(names) == sorted(field.name for field in dataclasses.fields(RunConfig))
    assert "More" not in [group.title for group in describe_settings()]
    assert {name for names in settings_help._TITLES.values() for name in names.split()} == set(names)


def test_a_new_key_is_in_the_help_before_it_has_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    @settings
    class Longer(RunConfig):
        novelty: Integer = Field(default=7, ge=3, description="Something new.")

    monkeypatch.setattr(settings_help, "RunConfig", Longer)
    (more,) = (group for group in describe_settings() if group.title == "More")
    assert more.keys == [Key("novelty", "integer", "at least 3", "7", "Something new.")]
