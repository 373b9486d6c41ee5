"""How what goes wrong is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import danceopd.training
from tests.cli.running import run, told
from tests.training.tiny import TinyFamily


def test_debug_shows_where_an_error_comes_from(config: Path) -> None:
    result = run("--debug", "train", config, "max_step=1")
    assert isinstance(result.exception, ValueError)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            ModuleNotFoundError("no", name="diffusers"),
            "the package 'diffusers' is not installed: pip install",
        ),
        (torch.OutOfMemoryError("CUDA"), "out of memory: lower batch_size"),
        (danceopd.training.OutOfMemoryError("out of memory: batch_size=2"), "out of memory: batch_size=2"),
        (PermissionError(13, "Permission denied", "runs/x"), "'runs/x': Permission denied."),
        (ValueError("several\n  lines"), "several lines"),
    ],
)
def test_what_goes_wrong_below_is_one_sentence_too(
    config: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def fail(self: TinyFamily, spec: str, **_: object) -> None:
        raise error

    monkeypatch.setattr(TinyFamily, "data", fail)
    told(run("train", config), words, code=1 if isinstance(error, (RuntimeError, MemoryError)) else 2)


@pytest.mark.parametrize("error", [RuntimeError("bug"), ImportError("bug", name="danceopd.flow")])
def test_a_bug_keeps_its_traceback(config: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(self: TinyFamily, spec: str, **_: object) -> None:
        raise error

    monkeypatch.setattr(TinyFamily, "data", fail)
    assert run("train", config).exception is error


def _unpack() -> None:
    _one, _two = ((1,),)[0]  # type: ignore[misc]


@pytest.mark.parametrize(
    "bug", [lambda: int("x"), lambda: json.loads("["), _unpack], ids=["int", "json", "unpack"]
)
def test_a_value_error_that_nobody_worded_keeps_its_traceback(
    config: Path, monkeypatch: pytest.MonkeyPatch, bug: Callable[[], object]
) -> None:
    monkeypatch.setattr(TinyFamily, "data", lambda self, spec, **_: bug())
    result = run("train", config)
    assert type(result.exception) in (ValueError, json.JSONDecodeError) and result.exit_code == 1
