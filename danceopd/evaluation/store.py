"""Measurements on disk: a line each, so that an evaluation that is killed has lost the last one at most."""

from __future__ import annotations

import fcntl
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import IO, Any, Final

from danceopd.evaluation.base import Measured

MEASURED: Final = "measured.jsonl"
"""The measurements of a contender, in its folder."""

_IMAGES: Final = "images"
_Key = tuple[str, int, str]
_NAMES: Final = tuple(field.name for field in fields(Measured))
_TEXTS: Final = ("case", "category", "capability", "metric")


class Store:
    """The measurements of one contender, as `open_store` gives them.

    Args:
        file: for reading and appending, in binary mode.
        path: its name.
        by, images: as for `open_store`.
    """

    def __init__(self, file: IO[bytes], path: Path, by: Mapping[str, str], images: Mapping[str, str]) -> None:
        self._file, self._by, self._images = file, by, images
        content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._rows = _current(whole, path, by, images)
        if len(whole) < len(content):  # killed while it wrote; the line after must not continue that one
            file.truncate(len(whole))

    def has(self, case: str, number: int, metric: str) -> bool:
        """Whether there is a number; a problem may not be there any more and is no reason to leave off."""
        row = self._rows.get((case, number, metric))
        return row is not None and row.value is not None

    def lacks(self, case: str, number: int, metric: str) -> bool:
        """Whether there is a problem in place of a number."""
        row = self._rows.get((case, number, metric))
        return row is not None and row.value is None

    def add(self, rows: Iterable[Measured]) -> None:
        """Append what is new in `rows`; what was said of the same image and metric before no longer counts.

        Raises:
            ValueError: a row has neither a number nor a problem, or has both.
            OSError: the disk is full.
        """
        lines = []
        for row in rows:
            if (row.value is None) == (row.problem is None) or not math.isfinite(row.value or 0.0):
                raise ValueError(
                    f"'{row.metric}' of '{row.case}' must have either a finite value or a problem, but has "
                    f"value={row.value} and problem={row.problem!r}."
                )
            key = (row.case, row.number, row.metric)
            if self._rows.get(key) != row:
                self._rows[key] = row
                of = {"by": self._by.get(row.metric, ""), _IMAGES: self._images.get(row.case)}
                lines.append(json.dumps({**asdict(row), **of}) + "\n")
        if lines:
            self._file.write("".join(lines).encode())
            self._file.flush()

    def rows(self) -> list[Measured]:
        """What counts, the last word on every image and metric."""
        return list(self._rows.values())


@contextmanager
def open_store(
    path: Path, by: Mapping[str, str] | None = None, images: Mapping[str, str] | None = None
) -> Iterator[Store]:
    """Measurements to read and to add to; nobody else can write them meanwhile.

    Args:
        path: a .jsonl file; made, with its folder, when it is not there. A last line that is not whole is
            dropped.
        by: what measures each metric, such as the hash of its weights, by the metric's name; rows of
            something else do not count.
        images: what the images of a case are now, such as a hash, by the case's key; rows of other images do
            not count. Cases that are not in it, and rows that do not say of which images they are, do.

    Raises:
        ValueError: another process is writing it, or a line is no measurement.
        OSError: it cannot be opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"'{path}' is being written by another process: wait for it, or give another folder."
            ) from None
        file.seek(0)
        yield Store(file, path, by or {}, images or {})


def read_measured(
    path: Path, by: Mapping[str, str] | None = None, images: Mapping[str, str] | None = None
) -> list[Measured]:
    """The measurements in a file, without keeping anybody from adding more; none when there is no file.

    Args:
        path: as `open_store` writes it.
        by: as for `open_store`.
        images: as for `open_store`.

    Raises:
        ValueError: a line is no measurement.
        OSError: it cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    return list(_current(content[: content.rfind(b"\n") + 1], path, by or {}, images or {}).values())


def _current(
    content: bytes, path: Path, by: Mapping[str, str], images: Mapping[str, str]
) -> dict[_Key, Measured]:
    rows: dict[_Key, Measured] = {}
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            given = json.loads(line)
            row = _measured(given)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError(f"line {number} of '{path}' is no measurement: delete the line.") from None
        if given.get("by", "") != by.get(row.metric, ""):
            continue
        key = (row.case, row.number, row.metric)
        if given.get(_IMAGES) in (None, images.get(row.case, given.get(_IMAGES))):
            rows[key] = row
        else:  # nor does what was said before of images that nobody knows
            rows.pop(key, None)
    return rows


def _measured(given: Mapping[str, Any]) -> Measured:
    row = Measured(**{name: given[name] for name in _NAMES})
    texts = all(isinstance(given[name], str) for name in _TEXTS)
    numbers = isinstance(row.number, int) and (row.value is None or isinstance(row.value, (int, float)))
    if not (texts and numbers and (row.value is None) == isinstance(row.problem, str)):
        raise ValueError("a field is of another type")
    return row
