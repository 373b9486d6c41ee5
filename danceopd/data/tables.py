"""What a table of rows is, wherever it lies, and finding the reader for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol

from danceopd.data.errors import DataError
from danceopd.data.hugging_face import is_dataset, is_saved_dataset, read_dataset, read_saved_dataset
from danceopd.data.parquet import read_parquet
from danceopd.data.text_tables import read_csv, read_jsonl


class Table(Protocol):
    """Cells by column and row. Texts and numbers may be asked for by the column; images cell by cell."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    @property
    def folder(self) -> Path:
        """What relative paths start at."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        ...

    @property
    def aliases(self) -> Mapping[str, str]:
        """Columns that stand in for those of other names."""
        ...

    def __len__(self) -> int: ...

    def column(self, name: str, /) -> list[Any]:
        """All cells of a column."""
        ...

    def cell(self, name: str, row: int, /) -> Any:
        """One cell."""
        ...

    def describe(self, row: int, /) -> str:
        """The row, as a person finds it."""
        ...


_READERS: Final[Mapping[str, Callable[[Path, str], Any]]] = {
    ".csv": read_csv,
    ".jsonl": read_jsonl,
    ".parquet": read_parquet,
}
_METADATA: Final = tuple(f"metadata{extension}" for extension in _READERS)
_KINDS: Final = (
    ".csv, .jsonl or .parquet, a folder of images with its metadata, or one written by Dataset.save_to_disk"
)


def open_table(spec: Any) -> Table:
    """The table that a path or a dataset stands for; see `danceopd.data.load_rows`.

    Raises:
        DataError: nothing can be read there.
        ImportError: a package for this kind of file is not installed.
    """
    if is_dataset(spec):
        return read_dataset(spec)
    if not isinstance(spec, (str, Path)) or not str(spec):
        raise DataError(f"rows must be a path or a dataset, got {spec!r}: give {_KINDS}.")
    path = Path(spec).expanduser()
    if path.is_dir():
        return read_saved_dataset(path, path.name) if is_saved_dataset(path) else _image_folder(path)
    if not path.exists():
        raise DataError(f"rows '{path}' are not there: give a file that is, {_KINDS}.")
    if path.suffix.lower() not in _READERS:
        raise DataError(f"rows '{path}' are of no known kind: give {_KINDS}.")
    return _read(path, path.name)


def _read(path: Path, name: str) -> Any:
    return _READERS[path.suffix.lower()](path, name)


def _image_folder(folder: Path) -> Table:
    """A folder of images with a table of metadata, laid out as the imagefolder of Hugging Face."""
    found = [folder / name for name in _METADATA if (folder / name).is_file()]
    if len(found) > 1:
        raise DataError(f"'{folder}' holds {' and '.join(path.name for path in found)}: leave one of them.")
    if not found:
        inner = sorted(path.parent for name in _METADATA for path in folder.glob(f"*/{name}"))
        cure = f"did you mean '{inner[0]}'?" if inner else "write a metadata.csv with file_name and prompt."
        raise DataError(f"'{folder}' holds no {', '.join(_METADATA[:-1])} or {_METADATA[-1]}: {cure}")
    table = _read(found[0], f"{folder.name}/{found[0].name}")
    return replace(table, aliases=dict(_file_names(table.columns)))


def _file_names(columns: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for column in columns:
        if column == "file_name":
            yield "target", column
        for ending in ("_file_name", "_file_names"):
            if column.startswith(("source", "target", "mask")) and column.endswith(ending):
                yield column.removesuffix(ending), column
