"""Rows of a benchmark that is a dataset of Hugging Face, with an image to edit inside each."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from danceopd.data import open_split
from danceopd.evaluation.benchmarks.layout import Inspection, Unpacked


class Row(NamedTuple):
    """A row of the dataset.

    Attributes:
        cells: of the columns that were asked for, by name; of an optional one that is not there None.
        source: the image, as a file.
        where: how a person finds the row.
    """

    cells: Mapping[str, Any]
    source: Path
    where: str


def read_rows(
    inspection: Inspection,
    split: str,
    *,
    prompt: str,
    texts: Collection[str],
    image: str,
    optional: Collection[str] = (),
    only: Mapping[str, Collection[str]] | None = None,
    unpacked: Unpacked,
) -> Iterator[Row]:
    """The rows of a split, whose faults are noted in `inspection`.

    Args:
        inspection: of the copy.
        split: its name.
        prompt: the column of the instruction; a blank one is the benchmark's affair.
        texts: further columns without which it is another dataset, of text that is never blank.
        image: the column of the image.
        optional: further columns.
        only: rows with other values in these columns are passed over.
        unpacked: where the images go.

    Raises:
        DataError: a file of the split is missing or damaged, or a column is missing.
    """
    for table in open_split(inspection.folder, split):
        for name in (prompt, *texts, image):
            if name not in table.columns:
                inspection.fault(f"'{table.name}' has no column '{name}'")
        inspection.finish()
        names = (prompt, *texts, *optional)
        columns = {name: table.column(name) for name in names if name in table.columns}
        for row in range(len(table)):
            cells = {name: columns[name][row] if name in columns else None for name in names}
            if any(cells[name] not in values for name, values in (only or {}).items()):
                continue
            where = table.describe(row)
            empty = [name for name in texts if not str(cells[name] or "").strip()]
            if not isinstance(cells[prompt], str):
                empty.append(prompt)
            for name in empty:
                inspection.fault(f"{where} has no {name}")
            source = unpacked.image(table.cell(image, row), table.folder)
            if source is None:
                inspection.fault(f"{where} has no {image}")
            elif source not in unpacked.digests:
                inspection.file(source)
            if source is not None and not empty:
                yield Row(cells, source, where)
