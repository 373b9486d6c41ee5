"""The report's page as a browser shows it, on a desk and on a telephone."""

from __future__ import annotations

from pathlib import Path

import pytest

from danceopd.evaluation import make_report, write_report
from tests.evaluation.test_report import RECORD, Bench, bench, rows_of
from tests.page.browser import look, needs_browser

__all__ = ["bench"]

_LONG = "a-run-with-a-very-long-name_2025-01-01_12-00-00_and-more-than-that"
_BROKEN = """<!doctype html><html><head></head><body><p style="width: 600px">broad</p>
<div style="overflow-x: auto"><p style="width: 600px">in a box</p></div>
<img alt="far" src="http://127.0.0.1:9/far.png"></body></html>"""


@pytest.mark.browser
@needs_browser
def test_the_page_fits_and_needs_no_network(bench: Bench, tmp_path: Path) -> None:
    rows = {"student": rows_of(bench, 1, 4.0), "base": rows_of(bench, 2, 6.0), _LONG: rows_of(bench, 3, 4.0)}
    images = {"student": bench.folder / "student", "base": bench.folder / "base"}
    alone = {"student": rows["student"]}
    pages = {
        "three": write_report(make_report(RECORD, rows, bench.cases()), tmp_path / "three", bench, images),
        "alone": write_report(make_report(RECORD, alone, bench.cases()), tmp_path / "alone", bench, images),
        "broken": tmp_path / "broken.html",
    }
    pages["broken"].write_text(_BROKEN)
    (tmp_path / "seen").mkdir()
    seen, console = look(pages, (1280, 390), tmp_path / "seen")
    broken = seen.pop(("broken", 390))
    assert broken.wide == ["P broad"] and "it asks for http://127.0.0.1:9/far.png" in broken.faults
    assert len(seen) == 5
    for (name, width), of in seen.items():
        if name != "broken":
            assert of == ([], []), f"{name} at {width} pixels"
    assert [line for line in console if "broken.html" not in line] == []
    assert console, "the browser no longer tells what a page does wrong"
