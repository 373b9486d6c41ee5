"""One split of a dataset, in the numbered files that Hugging Face's hub hands out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from danceopd.data.errors import DataError, listed
from danceopd.data.hugging_face import read_arrow
from danceopd.data.parquet import read_parquet
from danceopd.data.tables import Table
from danceopd.files import what_is_missing

_NUMBERED: Final = re.compile(r"(.+)-(\d{5})-of-(\d{5})(?:-[0-9a-f]+)?(\.parquet|\.arrow)")
# As `push_to_hub` writes a dataset, as the hub converts it, and as `save_to_disk` does; the numbers keep out
# the caches that `datasets` leaves beside its own files.
_PLACES: Final = (
    "{split}-*.parquet",
    "{split}/*.parquet",
    "{split}.parquet",
    "{split}-*-of-*.arrow",
    "{split}/data-*-of-*.arrow",
)
_ONLY: Final = "data-*-of-*.arrow"  # of a dataset that was saved without splits


def open_split(folder: Path, split: str) -> list[Table]:
    """The tables that a split is made of, in their order; images in them stay as they are encoded.

    Found anywhere below `folder`: Parquet files ``split-00000-of-00002.parquet`` or ``split/0000.parquet``,
    Arrow files ``split-00000-of-00002.arrow`` or ``split/data-00000-of-00002.arrow``; and what was saved
    without splits, ``data-00000-of-00002.arrow``, in `folder` itself.

    Raises:
        DataError: there are none, or some are missing or damaged, which are named one by one.
        ImportError: pyarrow or datasets is not installed.
    """
    files = _files(folder, split)
    faults = _gaps(folder, files)
    tables: list[Table] = []
    for path in files:
        name = str(path.relative_to(folder))
        fault = what_is_missing(path)
        if fault is not None:
            faults.append(f"'{name}' {fault}")
            continue
        try:
            tables.append(read_parquet(path, name) if path.suffix == ".parquet" else read_arrow(path, name))
        except DataError as error:
            faults.append(str(error).rpartition(":")[0])
    if faults:
        raise DataError(f"the split '{split}' in '{folder}' is not whole ({listed(faults)}): copy it anew.")
    return tables


def _files(folder: Path, split: str) -> list[Path]:
    for place in _PLACES:
        if found := sorted(folder.rglob(place.format(split=split))):
            break
    else:
        found = sorted(folder.glob(_ONLY))
    if not found:
        raise DataError(
            f"'{folder}' holds no file of the split '{split}', such as {split}-00000-of-00001.parquet or "
            f"{split}/data-00000-of-00001.arrow: give the folder that a dataset was downloaded to."
        )
    folders = sorted({path.parent for path in found})
    if len(folders) > 1:
        places = listed([f"'{place}'" for place in folders])
        raise DataError(f"'{folder}' holds the split '{split}' {len(folders)} times: give one of {places}.")
    return found


def _gaps(folder: Path, files: Sequence[Path]) -> list[str]:
    """Numbered files that their names say there are, but are not, or are twice."""
    faults = []
    numbered: dict[tuple[str, str, str], list[int]] = {}
    for path in files:
        if match := _NUMBERED.fullmatch(path.name):
            stem, number, count, suffix = match.groups()
            numbered.setdefault((stem, count, suffix), []).append(int(number))
    where = f"{files[0].parent.relative_to(folder)}/".removeprefix("./")
    for (stem, count, suffix), numbers in numbered.items():
        for number in range(int(count)):
            name = f"'{where}{stem}-{number:05d}-of-{count}{suffix}'"
            if numbers.count(number) != 1:
                faults.append(f"{name} is there twice" if number in numbers else f"{name} is not there")
    return faults
