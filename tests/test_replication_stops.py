"""A command that a signal stops leaves nothing behind that works on, and goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import replication

from danceopd.training import list_checkpoints
from danceopd.training.run_folder import open_folder

_LONG = """
from pathlib import Path
import replication
from replicate.jobs import Job, Judging
from replicate.suites import Entry, Size

if __name__ == "__main__":
    options = {"num_rollout_steps": 2, "learning_rate": 1e-3}
    job = Job("local-global", Judging(prompts=1, curve=1, curve_prompts=1), updates=100_000, options=options)
    raise SystemExit(replication._run([Entry("main", "danceopd", "updates", job)], 1, Size(), Path("out"), 1))
"""


def test_a_signal_to_the_command_alone_ends_its_workers_too(tmp_path: Path) -> None:
    """A scheduler stops the parent only; a worker that trained on would lock what the next command needs."""
    (tmp_path / "long.py").write_text(_LONG)
    environment = {**os.environ, "PYTHONPATH": str(Path(replication.__file__).parent)}
    command = subprocess.Popen(
        [sys.executable, "long.py"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        while not any(file.stat().st_size for file in tmp_path.glob("out/runs/*/training/metrics.jsonl")):
            assert command.poll() is None
            time.sleep(0.05)
        command.send_signal(signal.SIGTERM)
        told, _ = command.communicate(timeout=60)
    finally:
        command.kill()
    assert command.returncode == 128 + signal.SIGTERM and "the same command goes on" in told
    (training,) = tmp_path.glob("out/runs/*/training")
    assert list_checkpoints(training / "checkpoints")
    with open_folder(training):  # raises where a process still trains in it
        pass
