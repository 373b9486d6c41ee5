"""``danceopd check``."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from danceopd.cli.steps import tell_step
from tests.cli.running import run, told


def test_check_tells_its_steps_and_draws_samples(config: Path, tmp_path: Path) -> None:
    result = run("check", config)
    assert result.exit_code == 0
    assert all(line.endswith("the weights are untrained.") for line in result.stderr.splitlines())
    lines = [line.split() for line in result.stdout.splitlines()]
    assert [tick for tick, *_ in lines] == ["✓"] * 7
    steps = ["config", "data", "resources", "teachers", "self-test", "estimate", "samples"]
    assert [step for _, step, *_ in lines] == steps
    picture = tmp_path / "run/check/samples.png"
    assert lines[-1][2] == str(picture) and picture.is_file()
    assert run("train", config).exit_code == 0  # the picture is no run


def test_check_without_samples_writes_nothing(config: Path, tmp_path: Path) -> None:
    result = run("check", config, "--no-samples", "--json")
    report = json.loads(result.stdout)
    assert report["samples"] is None and report["estimate"]["memory"]["total"] > 0
    assert report["self_test"]["losses"] == {"one": 0.0} and report["self_test"]["start"] is True
    assert set(report["self_test"]["fields"]["one"]["misses"]) == {"0.9", "0.5", "0.1"}
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
    told(run("check", config, "--no-samples", "--out", tmp_path), "--no-samples draws none")
    told(run("check", config, "--out", "/proc/none"), "--out '/proc/none' cannot be written")
    elsewhere = run("check", config, "--out", tmp_path / "a/b")
    assert str(tmp_path / "a/b/samples.png") in elsewhere.stdout and not (tmp_path / "run").exists()


def test_check_ends_at_the_first_failure(config: Path, tmp_path: Path) -> None:
    result = run("check", config, "teachers.0.checkpoint='0'")
    assert result.exit_code == 2
    assert [line.split()[1] for line in result.stdout.splitlines()] == ["config", "data", "resources"]
    assert result.stderr.startswith("danceopd: teacher 'one' is a no-op: ")
    assert result.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_check_finds_another_run_in_the_folder(config: Path) -> None:
    assert run("train", config, "max_steps=1").exit_code == 0
    result = run("check", config, "max_steps=1", "seed=1", "--no-samples")
    assert result.exit_code == 2 and "seed=0 but 1" in result.stderr


def test_on_a_terminal_the_steps_are_a_table_of_its_width(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = ["[red] of 2 teachers " + "word " * 20, "the other"]
    tell_step("teachers", found)
    assert capsys.readouterr().out == f"✓ teachers   {'; '.join(found)}\n"
    monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes for a terminal
    monkeypatch.setenv("COLUMNS", "60")
    tell_step("teachers", found)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert len(lines) == 4 and max(map(len, lines)) == 60
    assert lines[0].startswith("✓ teachers   · [red] of 2 teachers word")
    assert [line[:15] for line in lines[1:]] == [" " * 15, " " * 15, " " * 13 + "· "]
    assert " ".join(line[15:].strip() for line in lines) == " ".join(found).replace("  ", " ")
