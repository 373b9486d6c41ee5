"""``danceopd info``, help, and what a bare import costs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import danceopd
from tests.cli.running import run

ROOT = Path(__file__).parents[2]


def test_info_tells_versions_kernels_and_the_self_test() -> None:
    result = run("info")
    assert result.exit_code == 0, result.output
    for word in (
        danceopd.__version__,
        torch.__version__,
        "diffusers",
        "instructions",
        "CUDA devices",
        "passed on cpu",
    ):
        assert word in result.stdout
    facts = json.loads(run("info", "--json").stdout)
    assert facts["danceopd"] == danceopd.__version__
    assert facts["self_test"]["passed"] is True
    assert facts["kernels"]["cpu_isa"] in facts["kernels"]["cpu_isas"]


def test_info_fails_with_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    from danceopd import ops

    wrong = ops.SelfTest("guide", "cpu", "float32", error=0.5, allowed=1e-7)
    monkeypatch.setattr(ops, "self_test", lambda: [wrong])
    result = run("info")
    assert result.exit_code == 1
    assert "kernel 'guide' is wrong on cpu in float32" in result.stderr


@pytest.mark.parametrize("command", ["info", "demo", "check", "sample", "eval", "report"])
def test_help_needs_no_torch(command: str) -> None:
    code = (
        "import sys\nfrom danceopd.cli import app\n"
        f"try: app(['{command}', '--help'])\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout


def test_the_package_is_light_until_used_and_honest_about_its_names() -> None:
    code = (
        "import sys, danceopd\n"
        "assert not {'torch', 'pydantic', 'diffusers'} & set(sys.modules)\n"
        "assert set(danceopd.__all__) <= set(dir(danceopd))\n"
        "light = set(danceopd.__all__) - {'schedulers'}\n"
        "for name in light: assert getattr(danceopd, name) is not None, name\n"
        "assert 'diffusers' not in sys.modules\n"
        "assert danceopd.schedulers.FusedFlowMatchEulerScheduler\n"
        "try: danceopd.nothing\n"
        "except AttributeError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "module 'danceopd' has no attribute 'nothing'", done.stderr


def test_the_module_runs_as_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "danceopd", "train", "none.yaml"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr == "danceopd: cannot read the config 'none.yaml': No such file or directory.\n"


def test_what_other_packages_say_at_import_does_not_hide_a_sentence() -> None:
    """diffusers imports PEFT, and that torchao where it is there, which tells what it was not built for."""
    command = [
        sys.executable,
        "-m",
        "danceopd",
        "train",
        "configs/shapesworld_t2i_edit.yaml",
        "resolution=64",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("danceopd: resolution=64 cannot be set for ShapesWorld")
