"""The first sheet of an Excel workbook, as text."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from danceopd.data.errors import DataError

_MAIN: Final = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_RELATION: Final = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
_LARGEST: Final = 2**26  # bytes of a part when it is unpacked; a table of texts has far fewer
_MOST_ROWS, _MOST_COLUMNS = 2**20, 2**14  # that Excel has


def read_sheet(path: Path) -> list[list[str]]:
    """The cells of the first sheet of a workbook (Office Open XML, .xlsx), row by row from the first one.

    Blank cells are "", and so are all but the first of merged ones; formulas are what they came to when the
    workbook was saved.

    Raises:
        DataError: it is not there, or no such workbook.
    """
    try:
        with zipfile.ZipFile(path) as book:
            texts = _shared_texts(book)
            return list(_rows(_part(book, _first_sheet(book)), texts))
    except OSError as error:
        raise DataError(f"'{path}' cannot be read ({error.strerror}): restore it.") from None
    except DataError:
        raise
    except Exception as error:  # of a damaged archive, damaged XML, or parts that are not there
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise DataError(f"'{path}' is no Excel workbook that can be read ({reason}): restore it.") from None


def _part(book: zipfile.ZipFile, name: str) -> Element:
    if book.getinfo(name).file_size > _LARGEST:
        raise DataError(f"'{book.filename}' holds more than a table of texts does: restore it.")
    return ElementTree.fromstring(book.read(name))


def _first_sheet(book: zipfile.ZipFile) -> str:
    sheet = _part(book, "xl/workbook.xml").find(f"{_MAIN}sheets/{_MAIN}sheet")
    if sheet is None:
        raise ValueError("it has no sheet")
    for relation in _part(book, "xl/_rels/workbook.xml.rels"):
        if relation.get("Id") == sheet.get(_RELATION):
            target = relation.get("Target", "")
            return target[1:] if target.startswith("/") else f"xl/{target}"
    raise ValueError("its first sheet is missing")


def _shared_texts(book: zipfile.ZipFile) -> list[str]:
    if "xl/sharedStrings.xml" not in book.namelist():
        return []
    return [_text(item) for item in _part(book, "xl/sharedStrings.xml").iterfind(f"{_MAIN}si")]


def _text(item: Element) -> str:
    """Of an item's runs, without what helps to pronounce them."""
    runs = [item, *item.iterfind(f"{_MAIN}r")]
    return "".join(text.text or "" for run in runs for text in run.iterfind(f"{_MAIN}t"))


def _rows(sheet: Element, texts: list[str]) -> Iterator[list[str]]:
    past = 0
    for row in sheet.iterfind(f"{_MAIN}sheetData/{_MAIN}row"):
        number = int(row.get("r", past + 1))
        yield from ([] for _ in range(min(number, _MOST_ROWS) - past - 1))
        past = number
        cells: list[str] = []
        for cell in row.iterfind(f"{_MAIN}c"):
            column = _column(cell.get("r", ""), len(cells))
            cells += [""] * (column - len(cells))
            cells.append(_value(cell, texts))
        yield cells


def _column(place: str, following: int) -> int:
    """Of a cell called ``AB12``, from 0; cells without a name follow each other."""
    letters = re.match("[A-Z]*", place)
    number = 0
    for letter in letters.group() if letters else "":
        number = 26 * number + ord(letter) - ord("A") + 1
    if number > _MOST_COLUMNS:
        raise ValueError(f"it has a cell {place}")
    return number - 1 if number else following


def _value(cell: Element, texts: list[str]) -> str:
    if (inline := cell.find(f"{_MAIN}is")) is not None:
        return _text(inline)
    value = cell.findtext(f"{_MAIN}v") or ""
    return texts[int(value)] if cell.get("t") == "s" and value else value
