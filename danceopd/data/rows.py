"""A route's rows: one row as an example, its images decoded when it is asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from danceopd.data.columns import read_as
from danceopd.data.content import ImageContent, RowContent
from danceopd.data.errors import DataError, shown
from danceopd.data.images import LoadedImage, is_blank, load_image, load_mask
from danceopd.data.tables import Table, open_table
from danceopd.families.base import Example
from danceopd.settings import nearest

_LARGEST_SIDE: Final = 16384  # pixels; beyond it a size is a slip of the pen


class Rows:
    """The rows of a route. Prompts and sizes are in memory; images are decoded each time a row is asked for.

    Args:
        table: where the cells are.
        columns: the table's column for each kind of cell that it has: prompt, source, source_2, and so on.
        kept: the table's rows that these are, from 0.
        folder: what relative paths start at.
    """

    def __init__(self, table: Table, columns: Mapping[str, str], kept: Sequence[int], folder: Path) -> None:
        self._table = table
        self._columns = dict(columns)
        self._kept = kept
        self._folder = folder
        self._contents: dict[int, RowContent] = {}
        self._texts: dict[str, list[Any]] = {}
        for role in {"prompt", "height", "width"} & columns.keys():
            cells = table.column(columns[role])
            self._texts[role] = [cells[row] for row in kept]

    @property
    def name(self) -> str:
        """What messages call the whole."""
        return self._table.name

    @property
    def columns(self) -> dict[str, str]:
        """The table's column that each kind of cell is read from."""
        return dict(self._columns)

    @property
    def ignored(self) -> tuple[str, ...]:
        """The table's columns that mean nothing here."""
        return tuple(name for name in self._table.columns if name not in self._columns.values())

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, row: int, /) -> Example:
        """Row number `row`, from 0, its images decoded.

        Raises:
            DataError: a cell of it cannot be used, or an image is another one than when it was read first.
            IndexError: there is no such row.
        """
        prompt, size = self.prompt(row), self.size(row)
        sources, target = list(self._sources(row)), self._target(row)
        mask = self._mask(row, [image.content for image in (target, *sources[:1]) if image])
        content = RowContent(
            prompt,
            tuple(source.content for source in sources),
            target.content if target else None,
            size,
            mask.content if mask else None,
        )
        # What was encoded, checked or compared under the first content must not be mistaken for the second.
        if self._contents.setdefault(self._kept[row], content) != content:
            raise DataError(
                f"the images of {self.describe(row)} have changed since they were read first: leave them as "
                "they are during a run, and start it again."
            )
        return Example(
            prompt,
            tuple(source.pixels for source in sources),
            target.pixels if target else None,
            size=size,
            mask=mask.pixels if mask else None,
        )

    def content(self, row: int, /) -> RowContent:
        """What row number `row` holds; only the first time its images are read for that.

        Raises:
            DataError: a cell of it cannot be used.
            IndexError: there is no such row.
        """
        if self._kept[row] not in self._contents:
            self[row]
        return self._contents[self._kept[row]]

    @property
    def has_masks(self) -> bool:
        """Whether there is a column of masks."""
        return "mask" in self._columns

    def check_targets(self) -> None:
        """See that every row has a target; rows that were checked are not read again.

        Raises:
            DataError: a row has none, or cannot be used; the message names it.
        """
        if "target" not in self._columns:
            raise DataError(
                f"{self.name} has no column 'target', which is learned from (columns={{'target': NAME}} "
                "reads it from another one): add it, with the path of an image in every row."
            )
        for row in range(len(self)):
            if self.content(row).target is None:
                raise DataError(
                    f"{self.describe(row)} has nothing in its column '{self._columns['target']}', the target "
                    "that is learned from: name an image, or remove the row."
                )

    def prompt(self, row: int) -> str:
        """The prompt of a row, without its images.

        Raises:
            DataError: it is empty, or no text.
        """
        prompt = self._texts["prompt"][row]
        if is_blank(prompt):
            raise DataError(f"the prompt of {self.describe(row)} is empty: write one, or remove the row.")
        if not isinstance(prompt, str):
            raise DataError(
                f"the prompt of {self.describe(row)} must be a text, got {shown(prompt)}: quote it."
            )
        try:
            prompt.encode()
        except UnicodeEncodeError:
            raise DataError(
                f"the prompt of {self.describe(row)} holds half a character (a lone surrogate), which no "
                "tokenizer reads: write it anew."
            ) from None
        return prompt

    def size(self, row: int) -> tuple[int, int] | None:
        """Height and width in pixels of the image to make; None where the row leaves them open.

        Raises:
            DataError: one of them is missing, or not a number of pixels.
        """
        if "height" not in self._texts:
            return None
        height, width = (self._texts[side][row] for side in ("height", "width"))
        if is_blank(height) and is_blank(width):
            return None
        if is_blank(height) or is_blank(width):
            raise DataError(f"{self.describe(row)} has only one of height and width: give both, or none.")
        return self._pixels(row, "height", height), self._pixels(row, "width", width)

    def describe(self, row: int) -> str:
        """A row as a person finds it in the file, such as "row 17 of prompts.csv (line 18)"."""
        return self._table.describe(self._kept[row])

    def _sources(self, row: int) -> Iterator[LoadedImage]:
        what = f"the source of {self.describe(row)}"
        cells = [self._cell(row, role, what) for role in self._columns if role.startswith("source")]
        while cells and is_blank(cells[-1]):
            cells.pop()
        images = [image for cell in cells for image in _as_list(cell, what)]
        for number, image in enumerate(images, start=1):
            name = what if len(images) == 1 else f"source {number} of {self.describe(row)}"
            if is_blank(image):
                raise DataError(f"{name} is empty but a later one is not: move the later ones up.")
            yield load_image(image, self._folder, name)

    def _target(self, row: int) -> LoadedImage | None:
        if "target" not in self._columns:
            return None
        what = f"the target of {self.describe(row)}"
        cell = self._cell(row, "target", what)
        return None if is_blank(cell) else load_image(cell, self._folder, what)

    def _mask(self, row: int, images: Sequence[ImageContent]) -> LoadedImage | None:
        if "mask" not in self._columns:
            return None
        what = f"the mask of {self.describe(row)}"
        cell = self._cell(row, "mask", what)
        if is_blank(cell):
            return None
        mask = load_mask(cell, self._folder, what)
        size = mask.content.height, mask.content.width
        if size not in [(image.height, image.width) for image in images]:
            those = " and ".join(f"{image.height} x {image.width}" for image in images)
            raise DataError(
                f"{what} has {size[0]} x {size[1]} pixels but must have those of its target or first source "
                f"({those or 'it has none'}): give one of that size, or leave the cell blank."
            )
        return mask

    def _cell(self, row: int, role: str, what: str) -> Any:
        try:
            return self._table.cell(self._columns[role], self._kept[row])
        except (DataError, IndexError, MemoryError):
            raise
        except Exception as error:  # `datasets` decodes images as it reads them: nearly anything
            reason = " ".join(str(error).split()).rstrip(".")
            raise DataError(f"{what} cannot be read ({reason}): replace it, or remove the row.") from None

    def _pixels(self, row: int, side: str, value: Any) -> int:
        try:
            number = float(value) if isinstance(value, (str, int, float)) else 0.0
        except (ValueError, OverflowError):
            number = 0.0
        if not number.is_integer() or isinstance(value, bool) or not 1 <= number <= _LARGEST_SIDE:
            raise DataError(
                f"the {side} of {self.describe(row)} must be a whole number of pixels from 1 to "
                f"{_LARGEST_SIDE}, got {shown(value)}: correct it."
            )
        return int(number)


def load_rows(
    spec: Any,
    *,
    route: str | None = None,
    columns: Mapping[str, str] | None = None,
    root: str | Path | None = None,
) -> Rows:
    """Read the rows of a route; no image is opened yet, see `check_rows`.

    A table has these columns, and may have others, which are ignored:

    ========================  ======================================================================
    prompt                    the caption or the instruction; required
    source                    path of the image to edit, or a JSON list of paths; blank for none
    source_2, source_3, ...   further images
    target                    path of the image that should come out; optional
    mask                      path of a grey image of the size of the target or source, white where the
                              edit changes it; blank where all of it counts
    height, width             pixels of the image to make; both columns or none
    route                     keeps a row for the route of that name alone
    ========================  ======================================================================

    An image folder holds metadata.csv, .jsonl or .parquet, with the columns above. As in Hugging Face's
    imagefolder, ``file_name`` is a path below the folder, and ``source_file_name`` is read as ``source``.
    ``file_name`` is the target, since that is what a captioned image is; to edit these images instead, say
    ``columns={"source": "file_name"}``. Images that the metadata does not name are left out.

    Parquet files and datasets may hold the images themselves (encoded bytes, or ``{"bytes", "path"}``).

    Args:
        spec: a .csv (UTF-8, with commas), .jsonl or .parquet file; an image folder; a folder written by
            `datasets.Dataset.save_to_disk`; or a `datasets.Dataset`.
        route: the route's name; without it every row is kept.
        columns: which column to read instead, such as ``{"prompt": "caption"}``.
        root: folder that relative paths start at; that of the file which names them when None, and the
            working directory for a dataset in memory.

    Raises:
        DataError: there is no such file, it cannot be read, a column is missing, or no row is left.
        ImportError: the package for this kind of file is not installed.
    """
    table = open_table(spec)
    if not len(table):
        raise DataError(f"{table.name} has no rows: give it at least one.")
    known = read_as(table, columns or {})
    kept: Sequence[int] = range(len(table))
    if route is not None and "route" in known:
        names = [str(name).strip() for name in table.column(known["route"])]
        kept = [row for row, name in enumerate(names) if name == route]
        if not kept:
            raise DataError(f"no row of {table.name} has the route '{route}': {nearest(route, names)}")
    return Rows(table, known, kept, table.folder if root is None else Path(root).expanduser())


def _as_list(cell: Any, what: str) -> list[Any]:
    """The images of a cell: a list, a JSON list of paths as text, or one image."""
    if isinstance(cell, str) and cell.strip().startswith("[") and cell.strip().endswith("]"):
        try:
            cell = json.loads(cell)
        except ValueError:
            raise DataError(
                f'{what} ({shown(cell)}) is no JSON list: write ["one.png", "two.png"].'
            ) from None
    return list(cell) if isinstance(cell, (list, tuple)) else [cell]
