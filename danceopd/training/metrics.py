"""metrics.jsonl: one line of JSON per update, cut back to the checkpoint when a run resumes.

Everything outside the key ``time`` follows from the run's settings alone, so two runs can be compared.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self


class MetricsFile:
    """Append-only file of metrics.

    Args:
        path: the file; made when it is not there.
        last_step: lines of later updates, and one that a killed process left unfinished, are cut off.
    """

    def __init__(self, path: Path, last_step: int) -> None:
        self._file = path.open("a+b")
        self._file.seek(0)
        self._file.truncate(_end_of(self._file.read(), last_step))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def append(self, line: Mapping[str, Any]) -> None:
        """Write one line; it is visible to readers at once."""
        self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def sync(self) -> None:
        """Wait until all lines are on the disk: a checkpoint must never be ahead of its metrics."""
        os.fsync(self._file.fileno())


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file, without one that is being written."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def _end_of(content: bytes, last_step: int) -> int:
    """Length of ``content`` up to the first line that is unfinished or of an update after ``last_step``."""
    end = 0
    for line in content.split(b"\n")[:-1]:
        if _step_of(line) > last_step:
            break
        end += len(line) + 1
    return end


def _step_of(line: bytes) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return 0  # not ours: it is no reason to cut, so it stays
