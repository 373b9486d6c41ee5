"""``danceopd export``: what it refuses; what it writes is in tests/families/test_learning.py."""

from __future__ import annotations

from pathlib import Path

from danceopd.cli.export import Format
from danceopd.families.export import FORMATS
from tests.cli.running import run, told


def test_the_formats_are_those_that_can_be_written() -> None:
    assert tuple(each.value for each in Format) == FORMATS


def test_an_unknown_format_is_named_before_a_run_is_read(tmp_path: Path) -> None:
    result = run("export", tmp_path / "none", "--format", "onnx")
    assert result.exit_code == 2 and result.stdout == ""
    assert all(f"'{word}'" in result.stderr for word in ("onnx", *FORMATS))


def test_a_family_without_formats_says_where_its_student_is(config: Path, tmp_path: Path) -> None:
    assert run("train", config, "--no-check").exit_code == 0
    exported = run("export", tmp_path / "run", "--format", "peft")
    told(exported, "of the family 'tiny'", "take the file in its folder", "--format peft")
    assert "student.safetensors" in " ".join(run("export", "--help").stdout.split())
