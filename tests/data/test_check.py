from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest

from danceopd.data import DataError, Rows, check_rows, load_rows
from tests.data import pictures


def rows_of(folder: Path, sources: list[str], prompt: str = "x") -> Rows:
    lines = [f"{prompt},{source}" for source in sources]
    (folder / "prompts.csv").write_text("prompt,source\n" + "\n".join(lines), encoding="utf-8")
    return load_rows(folder / "prompts.csv")


def test_whole_rows_pass_in_silence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pictures.save(tmp_path / "a.png")
    check_rows(rows_of(tmp_path, ["a.png"] * 50), threads=3)
    assert capfd.readouterr() == ("", "")  # no bar where there is no terminal


@pytest.mark.parametrize("bad", [[40], [40, 41], [70, 40, 3]])
def test_the_first_broken_row_is_told_and_how_many_more(tmp_path: Path, bad: list[int]) -> None:
    pictures.save(tmp_path / "a.png", 64, 64)
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:-600])
    sources = ["cut.png" if row in bad else "a.png" for row in range(80)]
    more = {1: "", 2: "; 1 more row of prompts.csv cannot be used either."}
    end = more.get(len(bad), "; 2 more rows of prompts.csv cannot be used either.")
    first = min(bad)
    with pytest.raises(DataError) as error:
        check_rows(rows_of(tmp_path, sources))
    assert re.fullmatch(
        rf"the source of row {first + 1} of prompts.csv \(line {first + 2}\) \('cut.png'\) cannot be decoded "
        rf"\(.*\): replace the image, or remove the row{end or '.'}",
        str(error.value),
    )


def test_targets_are_decoded_too(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,target\nx,a.csv\n")
    with pytest.raises(
        DataError, match=r"the target of row 1 of a.csv \(line 2\) \('a.csv'\) is not an image"
    ):
        check_rows(load_rows(tmp_path / "a.csv"))


def test_a_prompt_too_long_is_one_sentence(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, [""], "x" * 10_000)
    with pytest.raises(
        DataError, match=r"has 10000 characters but at most 4000 are read: shorten it, or raise"
    ):
        check_rows(rows)
    check_rows(rows, max_prompt_characters=10_000)
    assert rows[0].prompt == "x" * 10_000


def test_only_the_rows_of_a_route_are_checked(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,source,route\nx,missing.png,one\ny,,two\n")
    check_rows(load_rows(tmp_path / "a.csv", route="two"))
    with pytest.raises(DataError, match=r"row 1 of a.csv"):
        check_rows(load_rows(tmp_path / "a.csv"))


def test_an_error_that_is_none_of_the_data_ends_it_at_once(tmp_path: Path) -> None:
    seen = []

    class Interrupted:
        name = "rows"

        def __len__(self) -> int:
            return 100_000

        def __getitem__(self, row: int) -> None:
            seen.append(row)
            raise MemoryError

    with pytest.raises(MemoryError):
        check_rows(Interrupted(), threads=2)  # type: ignore[arg-type]
    assert len(seen) < 10_000
    assert threading.active_count() < 10
