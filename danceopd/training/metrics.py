"""metrics.jsonl: one line of JSON per update, cut back to the checkpoint when a run resumes.

Everything outside the key ``time`` follows from the run's settings alone, so two runs can be compared.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from danceopd.methods import UpdateResult

if TYPE_CHECKING:
    from typing_extensions import Self

BINS: Final = 10  # of the histograms over sigma


def describe_update(routes: Sequence[str], result: UpdateResult) -> dict[str, Any]:
    """What a line of metrics says of an update: losses, and at which noise levels the student was how wrong.

    Args:
        routes: name of each sample's route.
        result: of the update.
    """
    names = sorted(set(routes))
    of = {name: [slot for slot, route in enumerate(routes) if route == name] for name in names}
    losses = result.loss.tolist()
    return {
        "loss": _mean(losses),
        "losses": {name: _mean([losses[slot] for slot in slots]) for name, slots in of.items()},
        "samples": {name: len(slots) for name, slots in of.items()},
        "sigma": _mean(result.sigma.flatten().tolist()),
        "histograms": {
            name: histogram(result.sigma[slots].flatten().tolist(), result.error[slots].flatten().tolist())
            for name, slots in of.items()
        },
        "forwards": result.forwards,
    }


def histogram(sigmas: Sequence[float], errors: Sequence[float]) -> dict[str, list[float]]:
    """Queried states and the sum of their errors in each of `BINS` equal parts of sigma from 0 to 1."""
    count, error = [0] * BINS, [0.0] * BINS
    for sigma, value in zip(sigmas, errors, strict=True):
        place = min(int(sigma * BINS), BINS - 1)
        count[place] += 1
        error[place] += value
    return {"count": list(count), "error": error}


class MetricsFile:
    """Append-only file of metrics.

    Args:
        path: the file; made when it is not there.
        last_step: lines of later updates, and one that a killed process left unfinished, are cut off.
    """

    def __init__(self, path: Path, last_step: int) -> None:
        self._path = path
        self._unwritten = b""
        # Without a buffer of its own: what is written is in the file, and to close it writes nothing.
        self._file = path.open("a+b", buffering=0)
        self._file.seek(0)
        self._file.truncate(_end_of(self._file.read(), last_step))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def append(self, line: Mapping[str, Any]) -> None:
        """Write one line; it is visible to readers at once.

        Raises:
            OSError: there is no room for it; nothing of it is in the file, and `sync` tries again.
        """
        self._unwritten += json.dumps(line, allow_nan=False).encode() + b"\n"
        self._write()

    def sync(self) -> None:
        """Wait until all lines are on the disk: a checkpoint is not to be ahead of its metrics.

        Raises:
            OSError: the disk has no room for them.
        """
        self._write()
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._full(error) from error

    def _write(self) -> None:
        end = self._file.seek(0, os.SEEK_END)
        try:
            written = 0
            while written < len(self._unwritten):
                written += os.write(self._file.fileno(), self._unwritten[written:])
        except OSError as error:
            self._file.truncate(end)
            raise self._full(error) from error
        self._unwritten = b""

    def _full(self, error: OSError) -> OSError:
        return OSError(
            f"cannot write '{self._path}': {error.strerror or error}; make room and start the same training "
            "again."
        )


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file, without one that is being written."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


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
