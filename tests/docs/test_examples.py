"""The scripts of examples/ run as a person would run them, with less to do."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from danceopd import shapesworld
from tests.families.parity import folder_of
from tests.families.tiny.words import PROMPTS

torch.set_num_threads(1)

EXAMPLES = Path(__file__).parents[2] / "examples"
SHORT = ["--updates", "2", "--batch-size", "2", "--prompts", "1"]

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run an example in an empty folder; gives what it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shapesworld, "evaluate", partial(shapesworld.evaluate, num_steps=1))

    def call(name: str, *arguments: str) -> str:
        runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](arguments)
        return capsys.readouterr().out

    return call


def test_every_example_is_tried() -> None:
    tried = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {path.stem for path in EXAMPLES.glob("*.py")} <= tried


def test_distil_two_loras(run: Run) -> None:
    told = run("distil_two_loras", *SHORT, "--method", "soft")
    assert [line.split()[0] for line in told.splitlines()[1:]] == ["local", "global", "runs/two-loras"]
    assert Path("runs/two-loras/student.safetensors").is_file()


def test_keep_the_best(run: Run) -> None:
    told = run("keep_the_best", *SHORT, "--save-every", "1")
    assert [line.split(":")[0] for line in told.splitlines()[:2]] == ["step-00000001", "step-00000002"]
    assert "runs/keep-the-best/best" in told
    assert Path("runs/keep-the-best/best/state.json").is_file()


def test_own_field(run: Run) -> None:
    told = run("own_field", *SHORT)
    assert [line.split()[0] for line in told.splitlines()] == ["base", "field", "student"]


def test_expert_then_student(run: Run) -> None:
    told = run("expert_then_student", *SHORT)
    names = [line.split()[0] for line in told.splitlines()[1:]]
    assert names == ["local", "runs/expert-then-student/expert", "runs/expert-then-student/student"]


def test_fused_schedulers(run: Run) -> None:
    told = run(
        "fused_schedulers", str(folder_of("sd3")), "--prompt", PROMPTS[0], "--steps", "4", "--size", "64",
        "--dtype", "float32",
    )  # fmt: skip
    apart = {line.split()[0]: float(line.split()[3]) for line in told.splitlines()}
    assert apart["stock"] == 0.0 and apart["fused"] < 0.1 < apart["second-order"]
    assert {path.stem for path in Path("schedulers").iterdir()} == apart.keys()
