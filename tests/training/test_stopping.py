"""Real processes of the command line: stopped, kept apart, and continued by the command that they print."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from danceopd import cli
from danceopd.training import list_checkpoints, load_checkpoint
from tests.training.runs import ENDLESS


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, list(arguments))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_process_says_how_to_go_on(tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    config = folder / "config.yaml"
    config.write_text(ENDLESS.format(folder=folder))
    command = [sys.executable, "-m", "danceopd", "train", str(config), "seed=3", "--no-check", "--no-resume"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            metrics = folder / "run/metrics.jsonl"
            while process.poll() is None and not (metrics.is_file() and metrics.stat().st_size):
                time.sleep(0.02)
            second = run("train", str(config), "seed=3", "--no-check")
            process.send_signal(number)
            told = process.communicate()[1].splitlines()
        finally:
            process.kill()
    assert second.exit_code == 2 and "Traceback" not in second.stderr
    assert f"danceopd: output_dir '{folder}/run' is in use by another training process" in second.stderr
    assert process.returncode == 128 + number
    (checkpoint,) = list_checkpoints(folder / "run/checkpoints")
    step = load_checkpoint(checkpoint).step
    stopped, _, again = told[-1].partition("; to go on: ")
    assert stopped == f"Stopped after {step} of 100000 updates"
    assert again == f"danceopd train '{config}' seed=3 --no-check"
    result = run(*shlex.split(again)[1:], f"max_steps={step + 1}")
    assert result.exit_code == 0 and f"{step + 1} updates done" in result.stderr
