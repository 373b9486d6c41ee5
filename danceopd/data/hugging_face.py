"""Rows in a `datasets.Dataset` of Hugging Face, handed over or saved to disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from danceopd.data.errors import DataError

STATE = "state.json"
SPLITS = "dataset_dict.json"


@dataclass(frozen=True)
class DatasetTable:
    """A dataset, read cell by cell, so that asking for a prompt decodes no image.

    Args:
        dataset: a `datasets.Dataset`, or what acts like one.
        name: for messages.
        folder: what relative paths start at.
    """

    dataset: Any
    name: str
    folder: Path
    aliases: Mapping[str, str] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(self.dataset.column_names)

    def __len__(self) -> int:
        return len(self.dataset)

    def column(self, name: str) -> list[Any]:
        """All cells of a column."""
        return list(self.dataset.select_columns([name])[:][name])

    def cell(self, name: str, row: int) -> Any:
        """One cell."""
        return self.dataset.select_columns([name])[row][name]

    def describe(self, row: int) -> str:
        """The row, as a person finds it in the dataset."""
        return f"row {row + 1} of {self.name}"


def is_dataset(value: Any) -> bool:
    """Whether a value is one of the `datasets` package's, also one without a length."""
    return hasattr(value, "column_names") and hasattr(value, "select_columns")


def is_saved_dataset(folder: Path) -> bool:
    """Whether `Dataset.save_to_disk` wrote a folder."""
    return (folder / STATE).is_file() or (folder / SPLITS).is_file()


def read_dataset(dataset: Any, name: str = "the dataset", folder: Path | None = None) -> DatasetTable:
    """Take a dataset, without any format or transform that it has been given.

    Raises:
        DataError: it has several splits, or is streamed.
    """
    if isinstance(dataset, Mapping):
        if len(dataset) != 1:
            splits = ", ".join(map(str, dataset))
            raise DataError(f"{name} has the splits {splits}: give one of them.")
        (dataset,) = dataset.values()
    if not is_dataset(dataset) or not hasattr(dataset, "__len__"):
        raise DataError(f"{name} is streamed, but rows are read in any order: load it without streaming.")
    return DatasetTable(dataset.with_format(None), name, folder or Path())


def read_arrow(path: Path, name: str) -> DatasetTable:
    """Open one of the files that `Dataset.save_to_disk` wrote; images stay as they are encoded.

    Raises:
        DataError: it is damaged.
        ImportError: datasets is not installed.
    """
    datasets = _package(path)
    try:
        dataset = datasets.Dataset.from_file(str(path))
        for column, feature in dataset.features.items():
            if isinstance(feature, datasets.Image):
                dataset = dataset.cast_column(column, datasets.Image(decode=False))
    except Exception as error:  # as below
        reason = " ".join(str(error).split()).rstrip(".")
        raise DataError(f"'{path}' cannot be read as Arrow ({reason}): restore it.") from None
    return read_dataset(dataset, name, path.parent)


def read_saved_dataset(folder: Path, name: str) -> DatasetTable:
    """Open a folder that `Dataset.save_to_disk` wrote; of several splits, that of the one split is meant.

    Raises:
        DataError: it is damaged, or holds several splits.
        ImportError: datasets is not installed.
    """
    datasets = _package(folder)
    try:
        dataset = datasets.load_from_disk(str(folder))
    except Exception as error:  # Arrow's, JSON's and the package's own, with no common base
        reason = " ".join(str(error).split()).rstrip(".")
        raise DataError(f"'{folder}' cannot be read as a saved dataset ({reason}): save it anew.") from None
    if isinstance(dataset, Mapping) and len(dataset) != 1:
        splits = " or ".join(f"'{folder / split}'" for split in dataset)
        raise DataError(f"'{folder}' holds {len(dataset)} splits: give the folder of one, {splits}.")
    return read_dataset(dataset, name, folder)


def _package(path: Path) -> Any:
    try:
        import datasets
    except ModuleNotFoundError:
        raise ImportError(
            f"'{path}' needs the package datasets, which is not installed: pip install \"danceopd[data]\"."
        ) from None
    return datasets
