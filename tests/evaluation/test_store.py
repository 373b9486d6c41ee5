"""Measurements on disk: whole lines, the last word, one writer."""

from __future__ import annotations

from pathlib import Path

import pytest

from danceopd.evaluation import Measured
from danceopd.evaluation.store import open_store, read_measured


def row(
    case: str = "a", metric: str = "m", value: float | None = 1.0, problem: str | None = None
) -> Measured:
    return Measured(case, "c", "t2i", 0, metric, value, problem)


def fill(path: Path, *rows: Measured, **by: str) -> None:
    with open_store(path, by) as store:
        store.add(rows)


def test_what_was_added_is_there_again_to_the_last_bit(tmp_path: Path) -> None:
    path = tmp_path / "x" / "measured.jsonl"
    rows = [row("a", value=0.1 + 0.2), row("ü", value=None, problem="no\nsuch image"), row("b", value=1e-300)]
    fill(path, *rows)
    assert read_measured(path) == rows
    with open_store(path) as store:
        assert store.rows() == rows
        assert store.has("a", 0, "m") and not store.has("ü", 0, "m")  # a problem is looked at again
        assert not store.has("a", 1, "m") and not store.has("a", 0, "other")


def test_the_last_word_counts_and_the_same_word_is_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "measured.jsonl"
    refused = row(value=None, problem="refused")
    fill(path, refused, refused)
    fill(path, refused)
    assert len(path.read_bytes().splitlines()) == 1
    fill(path, row(value=3.0))
    assert len(path.read_bytes().splitlines()) == 2
    assert read_measured(path) == [row(value=3.0)]


def test_a_torn_last_line_is_dropped_wherever_it_was_torn(tmp_path: Path) -> None:
    path = tmp_path / "measured.jsonl"
    fill(path, row("a"), row("b"))
    content = path.read_bytes()
    first = content.index(b"\n") + 1
    for length in (first, first + 1, first + 20, len(content) - 1):
        path.write_bytes(content[:length])
        assert read_measured(path) == [row("a")]
        fill(path, row("b"))
        assert path.read_bytes() == content


def test_a_line_of_something_else_is_told_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "measured.jsonl"
    fill(path, row("a"))
    good = path.read_bytes()
    for bad in (
        b"{}",
        b"x",
        b"[1]",
        good.strip().replace(b"1.0", b'"1"'),
        good.strip().replace(b"1.0", b"null"),
    ):
        path.write_bytes(good + bad + b"\n")
        with pytest.raises(ValueError, match=r"line 2 of '.*measured\.jsonl' is no measurement"):
            read_measured(path)


def test_numbers_by_other_weights_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "measured.jsonl"
    fill(path, row(), row(metric="clip"), clip="weights 1")
    with open_store(path, {"clip": "weights 2"}) as store:
        assert store.has("a", 0, "m") and not store.has("a", 0, "clip")
        store.add([row(metric="clip", value=2.0)])
    assert read_measured(path, {"clip": "weights 2"}) == [row(), row(metric="clip", value=2.0)]
    assert read_measured(path, {"clip": "weights 1"}) == [row(), row(metric="clip")]


def test_numbers_of_other_images_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "measured.jsonl"
    fill(path, row(), row("b"))  # as before images were noted
    with open_store(path, images={"a": "one"}) as store:
        assert store.has("a", 0, "m") and store.has("b", 0, "m")
        store.add([row(value=2.0)])
    for images, counts in (({"a": "one"}, True), ({}, True), ({"a": "two"}, False)):
        with open_store(path, images=images) as store:
            assert store.has("a", 0, "m") == counts and store.has("b", 0, "m")
    with open_store(path, images={"a": "two"}) as store:
        store.add([row(value=2.0)])  # the same number, and yet to be noted
    with open_store(path, images={"a": "two"}) as store:
        assert store.rows() == [row("b"), row(value=2.0)]
    assert row(value=2.0) in read_measured(path)


def test_there_is_one_writer(tmp_path: Path) -> None:
    path = tmp_path / "measured.jsonl"
    with (
        open_store(path),
        pytest.raises(ValueError, match="is being written by another process"),
        open_store(path),
    ):
        raise AssertionError("a second writer")
    fill(path, row())


@pytest.mark.parametrize(
    "bad", [row(value=None), row(problem="too"), row(value=float("nan")), row(value=float("inf"))]
)
def test_a_row_is_a_number_or_a_problem(tmp_path: Path, bad: Measured) -> None:
    with pytest.raises(ValueError, match="'m' of 'a' must have either a finite value or a problem"):
        fill(tmp_path / "measured.jsonl", bad)


def test_no_file_has_no_measurements(tmp_path: Path) -> None:
    assert read_measured(tmp_path / "none.jsonl") == []
