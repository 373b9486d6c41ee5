"""docs/quickstart.md: its commands and its code run as they are written, with less to do."""

from __future__ import annotations

import inspect
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from danceopd.cli import app
from danceopd.families import Family
from danceopd.sampling import sample
from danceopd.training import load_run_config
from tests.test_configs import PLACEHOLDER, SMALL, placeholders, written

from .pages import ROOT, blocks, read

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _in_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder that has the repository's configs."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)


def test_the_quick_start_in_the_miniature_world() -> None:
    install, *lines = blocks("docs/quickstart.md", "sh")[0].splitlines()
    assert install == "pip install ." and len(lines) == 4
    less = {
        "train": ["max_steps=1", "warmup_steps=0", "batch_size=2", "--no-check"],
        "eval": ["--prompts", "1", "--steps", "1"],
    }
    for line in lines:
        program, verb, *arguments = shlex.split(line, comments=True)
        assert program == "danceopd"
        result = CliRunner().invoke(app, [verb, *arguments, *less.get(verb, [])])
        assert result.exit_code == 0, (line, result.output)
    assert Path("night.png").is_file()


def test_the_quick_start_with_a_real_family(tmp_path: Path) -> None:
    (block,) = blocks("docs/quickstart.md", "yaml")
    Path("mine.yaml").write_text(block)
    found = dict(placeholders(yaml.safe_load(block)))
    filled = [
        f"{key}={written('sd3', key, text, tmp_path, number)}"
        for number, (key, text) in enumerate(found.items())
    ]
    filled += [*SMALL, "student.rank=4", "student.alpha=4", "validation.num_steps=1", "validation.rows=1"]
    for line in blocks("docs/quickstart.md", "sh")[1].splitlines():
        _, verb, *arguments = shlex.split(line, comments=True)
        if verb == "train":
            run = load_run_config(arguments[0], filled)
            assert PLACEHOLDER not in repr(run)
            result = CliRunner().invoke(app, [verb, *arguments, *filled, "--no-check"])
            assert result.exit_code == 0, result.output
        if verb == "sample":
            result = CliRunner().invoke(app, [verb, *arguments, "--steps", "1"])
            assert result.exit_code == 0, result.output
        if verb == "check":
            assert arguments == ["mine.yaml"]
    assert Path("sailor.png").is_file()


def test_the_quick_start_from_python() -> None:
    train, config = blocks("docs/quickstart.md", "python")
    for text, less in (("max_steps=520", "max_steps=1"), ("batch_size=16", "batch_size=2")):
        assert train.count(text) == 1
        train = train.replace(text, less)
    names: dict[str, Any] = {"__name__": "guide"}
    exec(compile(train, "quickstart.md", "exec"), names)
    assert names["images"].shape == (1, 3, 16, 16)
    exec(compile(config, "quickstart.md", "exec"), names)
    assert names["student"].step == 1 and names["run"].max_steps == 100


@pytest.mark.parametrize("page", ["docs/quickstart.md", "examples/distil_two_loras.py"])
def test_what_is_asked_of_a_family_every_family_has(page: str) -> None:
    asked = set(re.findall(r"\bfamily\.(\w+)\(", read(page)))
    assert asked and asked <= set(dir(Family))


def test_the_keywords_of_sample_are_told() -> None:
    text = read("docs/quickstart.md").partition("`opd.sample` also takes")[2].partition(".")[0]
    keywords = inspect.signature(sample).parameters.keys() - {
        "family",
        "field",
        "prompts",
        "sources",
        "num_steps",
    }
    assert all(f"`{keyword}" in text for keyword in keywords)
