"""Runs killed at random moments; tests/nightly/kill_storm.py --kills 200 is the same for a longer night."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "nightly/kill_storm.py"


def test_ten_kills_change_no_bit() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--kills", "10", "--seed", "0"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert sum(json.loads(done.stdout)["kills"].values()) == 10
