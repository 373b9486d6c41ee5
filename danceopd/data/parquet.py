"""Rows in a Parquet file, whose images may lie in the file itself."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from danceopd.data.errors import DataError

_lock = threading.Lock()


@dataclass(frozen=True)
class ParquetTable:
    """A table on disk; a cell is read with its row group, of which the latest few stay in memory.

    Args:
        path: the file.
        name: of the file, for messages.
        columns: names of the columns.
        ends: number of rows up to the end of each row group.
        version: tells the file from another that takes its place.
    """

    path: Path
    name: str
    columns: tuple[str, ...]
    ends: tuple[int, ...]
    version: tuple[int, int]
    aliases: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """What relative paths start at."""
        return self.path.parent

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def column(self, name: str) -> list[Any]:
        """All cells of a column."""
        with _readable(self.path) as parquet, parquet.ParquetFile(self.path) as file:
            return file.read(columns=[name]).column(name).to_pylist()

    def cell(self, name: str, row: int) -> Any:
        """One cell."""
        group = bisect_right(self.ends, row)
        # One reader at a time: threads that miss the same group would each hold a copy of it.
        with _lock:
            cells = _row_group(self.path, self.version, name, group)
        return cells[row - (self.ends[group - 1] if group else 0)].as_py()

    def describe(self, row: int) -> str:
        """The row, as a person finds it in the file."""
        return f"row {row + 1} of {self.name}"


def read_parquet(path: Path, name: str) -> ParquetTable:
    """Open a Parquet file.

    Raises:
        DataError: it is no whole Parquet file.
        ImportError: pyarrow is not installed.
    """
    with _readable(path) as parquet, parquet.ParquetFile(path) as file:
        about = file.metadata
        sizes = [about.row_group(group).num_rows for group in range(about.num_row_groups)]
        stat = path.stat()
        version = (stat.st_mtime_ns, stat.st_ino)
        return ParquetTable(path, name, tuple(file.schema_arrow.names), tuple(accumulate(sizes)), version)


@lru_cache(maxsize=4)
def _row_group(path: Path, version: tuple[int, int], column: str, group: int) -> Any:
    with _readable(path) as parquet, parquet.ParquetFile(path) as file:
        return file.read_row_group(group, columns=[column]).column(column)


@contextmanager
def _readable(path: Path) -> Iterator[Any]:
    """pyarrow.parquet, with what it raises told in one sentence."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise ImportError(
            f"'{path}' needs the package pyarrow, which is not installed: pip install \"danceopd[data]\"."
        ) from None
    try:
        yield pyarrow.parquet
    except (OSError, pyarrow.ArrowException) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise DataError(f"'{path}' cannot be read as Parquet ({reason}): write the file anew.") from None
