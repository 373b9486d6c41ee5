"""By what an evaluation knows a run's teachers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from danceopd.evaluation.contenders import _teacher
from danceopd.families import Teacher
from danceopd.settings import ConfigError

FAMILY: Any = SimpleNamespace(files=lambda teacher: {}, dtype="float32")


def test_a_teacher_is_known_by_the_same_keys_as_ever(tmp_path: Path) -> None:
    """An evaluation that was begun with an older version goes on, whatever keys teachers have got since."""
    guided = _teacher(Teacher("guided", guidance_scale=4.5), FAMILY, tmp_path, frozenset())
    settings = {"scale": 1.0, "guidance_scale": 4.5, "guidance_vector": None, "quantization": None}
    assert guided.identity == {"files": {}, "settings": settings, "dtype": "float32"}


def test_a_field_of_python_code_cannot_be_evaluated_from_its_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"teacher 'mine' is a field of Python code \(half\)"):
        _teacher(Teacher("mine", identity="half"), FAMILY, tmp_path, frozenset())
