"""Rows in text files: CSV, and JSON lines."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from danceopd.data.errors import DataError


@dataclass(frozen=True)
class TextTable:
    """A table in memory; of images it holds no more than their paths.

    Args:
        name: of the file, for messages.
        folder: what relative paths start at.
        values: the cells of each column.
        lines: where in the file each row begins, from 1.
        aliases: columns that stand in for those of other names, as the image folder's ``file_name`` does.
    """

    name: str
    folder: Path
    values: Mapping[str, list[Any]]
    lines: list[int]
    aliases: Mapping[str, str] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, in the file's order."""
        return tuple(self.values)

    def __len__(self) -> int:
        return len(self.lines)

    def column(self, name: str) -> list[Any]:
        """All cells of a column."""
        return self.values[name]

    def cell(self, name: str, row: int) -> Any:
        """One cell."""
        return self.values[name][row]

    def describe(self, row: int) -> str:
        """The row, as a person finds it in the file."""
        return f"row {row + 1} of {self.name} (line {self.lines[row]})"


def read_csv(path: Path, name: str) -> TextTable:
    """The rows of a CSV file: UTF-8, separated by commas, names of the columns in its first line.

    Raises:
        DataError: it is not UTF-8, has no header, or a row that does not fit the header.
    """
    reader = csv.reader(io.StringIO(_read_text(path), newline=""), strict=True, skipinitialspace=True)
    header: list[str] = []
    rows, lines, line = [], [], 1
    try:
        for fields in reader:
            begin, line = line, reader.line_num + 1
            if not fields:
                continue
            if not header:
                header = [name.strip() for name in fields]
            elif len(fields) == len(header):
                rows.append(fields)
                lines.append(begin)
            else:
                raise DataError(
                    f"line {begin} of '{path}' has {len(fields)} fields but the header names {len(header)}: "
                    "put a field that has commas in quotes, and leave none out."
                )
    except csv.Error as error:
        raise DataError(
            f"line {line} of '{path}' cannot be read as CSV ({error}): close its quotes, and double those "
            "inside a quoted field."
        ) from None
    for column in header:
        if column and header.count(column) > 1:
            raise DataError(f"'{path}' has {header.count(column)} columns '{column}': rename all but one.")
    # A column without a name is the index that pandas writes.
    values = {column: [row[place] for row in rows] for place, column in enumerate(header) if column}
    return TextTable(name, path.parent, values, lines)


def read_jsonl(path: Path, name: str) -> TextTable:
    """The rows of a file with one JSON object per line; a key that a line leaves out is None there.

    Raises:
        DataError: it is not UTF-8, or a line is no JSON object.
    """
    records, lines = [], []
    # Not splitlines(): JSON texts may hold the other characters that it takes for ends of lines.
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"line {number} of '{path}' is no JSON ({error}): write one {{\"prompt\": ...}} per line."
            ) from None
        if not isinstance(record, dict):
            raise DataError(
                f"line {number} of '{path}' is a {type(record).__name__} and no JSON object: "
                'write one {"prompt": ...} per line.'
            )
        records.append(record)
        lines.append(number)
    columns = dict.fromkeys(key for record in records for key in record)
    return TextTable(name, path.parent, {key: [row.get(key) for row in records] for key in columns}, lines)


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"'{path}' is not UTF-8 (byte {error.start + 1}): save it as UTF-8.") from None
    except OSError as error:
        raise DataError(f"'{path}' cannot be read ({error.strerror}): give another file.") from None
