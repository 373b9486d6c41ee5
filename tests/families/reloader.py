"""Export's fresh process, kept for the exports of several tests: starting one takes most of the time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from danceopd.families import export

_CODE = """
import json, sys, traceback
from danceopd.families.reload import main
answers, sys.stdout = sys.stdout, sys.stderr
for line in sys.stdin:
    try:
        main(*json.loads(line))
        error = ""
    except BaseException:
        error = traceback.format_exc()
    print(json.dumps(error), file=answers, flush=True)
"""


@contextmanager
def one_process() -> Iterator[None]:
    """Let all exports be read back by one process, which has never seen a student."""
    with subprocess.Popen(
        [sys.executable, "-c", _CODE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None

        def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
            assert command[:3] == [sys.executable, "-m", "danceopd.families.reload"]
            print(json.dumps(command[3:]), file=process.stdin, flush=True)
            error = json.loads(process.stdout.readline())
            return subprocess.CompletedProcess(command, int(bool(error)), "", error)

        with patch.object(export, "subprocess", run=run):
            yield
        process.stdin.close()
