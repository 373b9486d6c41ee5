"""Rows are known by their content: their images are read for that once, and changes are noticed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from danceopd.data import DataError, Rows, check_rows, load_rows, row_content, rows, rows_fingerprint
from danceopd.data.content import content_of
from danceopd.families import Example, load_family
from tests.data import pictures

HEADER = "prompt,source,source_2,target,mask,height,width\n"
LINES = ("a,a.png,b.png,c.png,d.png,64,32", "b,a.png,,c.png,,,", "c,,,,,32,64")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate("abc"):
        pictures.save(tmp_path / f"{name}.png", 6 + seed, 4, seed)
    pictures.save(tmp_path / "d.png", 8, 4, seed=7)
    write(tmp_path, *LINES)
    return tmp_path


def write(folder: Path, *lines: str) -> None:
    (folder / "rows.csv").write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")


def fingerprint(folder: Path) -> str:
    return rows_fingerprint(load_rows(folder / "rows.csv"))


def image(seed: int) -> torch.Tensor:
    return torch.from_numpy(pictures.pixels(seed=seed)).permute(2, 0, 1)


def test_the_same_rows_have_the_same_fingerprint_wherever_they_lie(folder: Path, tmp_path: Path) -> None:
    before = fingerprint(folder)
    assert fingerprint(folder) == before and len(before) == 64
    moved = folder.rename(tmp_path.with_name("moved"))
    (moved / "a.png").rename(moved / "other.png")
    write(moved, *(line.replace("a.png", "other.png") for line in LINES))
    assert fingerprint(moved) == before


CHANGES: dict[str, Callable[[Path], Any]] = {
    "a prompt": lambda folder: write(folder, LINES[0], LINES[1], "d,,,,,32,64"),
    "the order": lambda folder: write(folder, LINES[0], LINES[2], LINES[1]),
    "a row more": lambda folder: write(folder, *LINES, LINES[2]),
    "a size": lambda folder: write(folder, LINES[0], LINES[1], "c,,,,,64,64"),
    "no size": lambda folder: write(folder, LINES[0], LINES[1], "c,,,,,,"),
    "the order of sources": lambda folder: write(folder, "a,b.png,a.png,c.png,d.png,64,32", *LINES[1:]),
    "one source less": lambda folder: write(folder, "a,a.png,,c.png,d.png,64,32", *LINES[1:]),
    "no target": lambda folder: write(folder, LINES[0], "b,a.png,,,,,", LINES[2]),
    "source and target": lambda folder: write(folder, LINES[0], "b,c.png,,a.png,,,", LINES[2]),
    "no mask": lambda folder: write(folder, "a,a.png,b.png,c.png,,64,32", *LINES[1:]),
    "pixels of a mask": lambda folder: pictures.save(folder / "d.png", 8, 4, seed=9),
    "pixels of a source": lambda folder: pictures.save(folder / "b.png", 7, 4, seed=9),
    "pixels of a target": lambda folder: pictures.save(folder / "c.png", 8, 4, seed=9),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_has_another_fingerprint(folder: Path, change: str) -> None:
    before = fingerprint(folder)
    CHANGES[change](folder)
    assert fingerprint(folder) != before


def test_rows_that_were_checked_are_not_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = load_rows(folder / "rows.csv")
    check_rows(checked)

    def read(*arguments: object) -> None:
        raise AssertionError("an image was read")

    wanted = fingerprint(folder)
    monkeypatch.setattr(rows, "load_image", read)
    assert rows_fingerprint(checked) == wanted
    content = row_content(checked, 0)
    assert [(source.height, source.width) for source in content.sources] == [(6, 4), (7, 4)]
    assert content.target is not None and content.target.height == 8 and content.size == (64, 32)
    assert checked.content(-1) == checked.content(2)


def test_an_image_that_changes_under_a_run_is_noticed(folder: Path) -> None:
    checked = load_rows(folder / "rows.csv")
    check_rows(checked)
    pictures.save(folder / "a.png", 6, 4, seed=9)
    with pytest.raises(DataError, match=r"the images of row 2 of rows.csv \(line 3\) have changed since"):
        checked[1]
    assert checked[2].prompt == "c"


def test_encoded_bytes_count_wherever_they_come_from(tmp_path: Path) -> None:
    encoded = pictures.encoded(seed=3)
    (tmp_path / "a.png").write_bytes(encoded)

    class Cells:
        name, folder, aliases, columns = "cells", tmp_path, {}, ("prompt", "source")

        def __init__(self, source: Any) -> None:
            self.cells = {"prompt": "x", "source": source}

        def __len__(self) -> int:
            return 1

        def column(self, name: str) -> list[Any]:
            return [self.cells[name]]

        def cell(self, name: str, row: int) -> Any:
            return self.cells[name]

        def describe(self, row: int) -> str:
            return "the row"

    def key(source: Any) -> str:
        return rows_fingerprint(Rows(Cells(source), {"prompt": "prompt", "source": "source"}, [0], tmp_path))

    assert key("a.png") == key(encoded) == key({"bytes": encoded, "path": "b.png"})
    pixels = rows_fingerprint([Example("x", (image(3),))])
    assert key(Image.open(tmp_path / "a.png")) == pixels != key(encoded)


def test_examples_in_memory_are_known_by_their_pixels() -> None:
    example = Example("x", (image(1), image(2)), image(3), meta="anything", size=(8, 8))
    one = rows_fingerprint([example])
    assert rows_fingerprint([replace(example, meta=None)]) == one
    others = [
        replace(example, prompt="y"),
        replace(example, sources=(image(2), image(1))),
        replace(example, target=None),
        replace(example, size=None),
        replace(example, mask=torch.ones(6, 4, dtype=torch.uint8)),
        replace(example, sources=(image(1), image(2).transpose(1, 2))),
    ]
    keys = {rows_fingerprint([other]) for other in others} | {one, rows_fingerprint([example] * 2)}
    assert len(keys) == len(others) + 2
    assert content_of(example).sources[0].height == 6


def test_the_miniature_worlds_sets_have_names() -> None:
    family = load_family("shapesworld")
    grounds = ("t2i", "local", "global", "edit")
    keys = {rows_fingerprint(family.data(ground)) for ground in grounds}
    assert len(keys) == len(grounds) and keys == {rows_fingerprint(family.data(ground)) for ground in grounds}
