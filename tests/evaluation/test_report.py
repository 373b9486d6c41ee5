"""The report: equal measurements make equal bytes, and a page that needs nothing else."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch

from danceopd.evaluation import Case, Measured, MetricInfo, Record, Report, make_report, write_report
from danceopd.evaluation.radar import radar
from danceopd.pictures import write_pngs
from tests.page.html import Page

INFOS = (
    MetricInfo("l1", False, "L1 <outside>"),
    MetricInfo("consistency@seer", True, "Consistency (seer)"),
    MetricInfo("overall@seer", True, "Overall (seer)"),
    MetricInfo("sharpness", None, "Sharpness"),
)
CATEGORIES = ("add", "remove & replace", "a category of a long name", "style")
RECORD = Record("bench<1>", "ab" * 32, "student", {"seed": 0, "num_steps": 2}, INFOS, {"l1": "sha256 00"})


@dataclass(frozen=True)
class Bench:
    folder: Path
    name: str = "bench"
    images_per_case: int = 2

    def cases(self) -> list[Case]:
        source = self.folder / "source.png"
        return [
            Case(f"{place}-{number}", category, "edit", f"do <b>{number}</b> \u628a", (source,))
            for place, category in enumerate(CATEGORIES)
            for number in range(9)
        ]

    def image_path(self, case: Case, number: int) -> PurePosixPath:
        return PurePosixPath(f"{case.key}-{number}.png")

    def metadata(self) -> Mapping[PurePosixPath, bytes]:
        return {}

    def fingerprint(self) -> str:
        return "ab" * 32


def rows_of(bench: Bench, seed: int, shift: float) -> list[Measured]:
    draw = np.random.default_rng(seed)
    rows = [
        Measured(case.key, case.category, "edit", number, info.name, shift + float(draw.normal()))
        for case in bench.cases()
        for number in range(2)
        for info in INFOS
    ]
    rows[5] = Measured(*[getattr(rows[5], name) for name in ("case", "category", "capability", "number", "metric")], None, "the judge refused: <no>.")  # fmt: skip  # noqa: E501
    return rows


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("bench")
    noise = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8, generator=noise)
    write_pngs(image, folder / "source.png", zoom=1)
    bench = Bench(folder)
    for name in ("student", "base", "expert"):
        (folder / name).mkdir()
        for case in bench.cases():
            for number in range(2):
                write_pngs(image, folder / name / str(bench.image_path(case, number)), zoom=1)
    return bench


def make(bench: Bench, shuffle: int | None = None, **options: object) -> Report:
    rows = {
        "student": rows_of(bench, 1, 4.0),
        "base": rows_of(bench, 2, 6.0),
        "expert": rows_of(bench, 3, 4.0),
    }
    if shuffle is not None:
        for of in rows.values():
            random.Random(shuffle).shuffle(of)
    return make_report(RECORD, rows, bench.cases(), **options)  # type: ignore[arg-type]


def write(bench: Bench, report: Report, folder: Path) -> dict[str, bytes]:
    write_report(report, folder, bench, {name: bench.folder / name for name in report.contenders})
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def written(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("report")
    return folder, write(bench, make(bench), folder)


def test_equal_measurements_make_equal_bytes(
    bench: Bench, written: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    again = write(bench, make(bench, shuffle=5), tmp_path / "elsewhere")
    assert again == written[1]
    assert str(bench.folder).encode() not in b"".join(again.values())


def test_the_page_says_it_all_and_needs_no_network(written: tuple[Path, dict[str, bytes]]) -> None:
    page = Page(written[0] / "report.html")
    assert "What student kept on bench<1>" in page.text
    assert "edit base lost" in page.text and "L1 <outside> (edit)" in page.text
    assert "the judge refused: <no>." in page.text
    assert [width for width, _ in page.images] == [
        800,
        1064,
    ]  # the expert's columns have the base's beside them
    (label,) = page.labels
    assert label.startswith("Overall (seer) (edit), 4 categories: student ")


def test_a_judges_overall_leads(bench: Bench) -> None:
    report = make(bench)
    assert report.leading == {"edit": "overall@seer"}
    assert {losses.metric for losses in report.losses} == {"overall@seer"}
    for losses in report.losses:
        behind = [loss.other - loss.student for loss in losses.losses]
        assert len(behind) == 4 and behind == sorted(behind, reverse=True) and behind[-1] > 0
        assert len({loss.case for loss in losses.losses}) == 4


def test_tables_hold_every_comparison(bench: Bench, written: tuple[Path, dict[str, bytes]]) -> None:
    report, files = make(bench), written[1]
    lines = list(csv.DictReader(files["table.csv"].decode().splitlines()))
    assert len(lines) == len(report.comparisons) == 2 * 4 * 5  # others, metrics, overall and categories
    for line, row in zip(lines, report.comparisons, strict=True):
        assert (line["verdict"], float(line["difference"])) == (row.verdict, row.difference)
    assert json.loads(files["report.json"]) == json.loads(json.dumps(report.to_dict()))
    markdown = files["table.md"].decode()
    assert sum(line.startswith("| ") for line in markdown.splitlines()) == len(lines) + len(INFOS)
    assert all(line.count("|") == 9 for line in markdown.splitlines() if line.startswith("|"))


def test_problems_are_counted_by_reason(bench: Bench) -> None:
    problems = make(bench).problems
    assert [(problem.contender, problem.images) for problem in problems] == [
        ("student", 1),
        ("base", 1),
        ("expert", 1),
    ]


def test_an_image_with_two_reasons_lacks_a_number_once(bench: Bench, tmp_path: Path) -> None:
    rows = {"student": rows_of(bench, 1, 4.0), "base": rows_of(bench, 2, 6.0)}
    for row, place in ((rows["base"][5], 4), (rows["base"][5], 7), (rows["base"][20], 20)):
        other = rows["base"][place]
        rows["base"][place] = replace(other, value=None, problem=f"it cannot be read by {other.metric}.")
        assert (row.case, row.number) == (other.case, other.number)
    report = make_report(RECORD, rows, bench.cases())
    assert report.lacking == {"student": 1, "base": 2}
    assert sum(problem.images for problem in report.problems if problem.contender == "base") == 4
    write(bench, report, tmp_path)
    assert "lack a number: 1 of student, 2 of base." in Page(tmp_path / "report.html").text


def test_what_only_the_student_has_does_not_lead(bench: Bench, tmp_path: Path) -> None:
    rows = {"student": rows_of(bench, 1, 4.0), "base": rows_of(bench, 2, 6.0)}
    rows["base"] = [row for row in rows["base"] if "@" not in row.metric]
    assert make_report(RECORD, rows, bench.cases()).leading == {"edit": "l1"}
    rows["student"] = [row for row in rows["student"] if "@" in row.metric]
    report = make_report(RECORD, rows, bench.cases())
    assert report.leading == {"edit": "overall@seer"}
    write(bench, report, tmp_path)
    assert "student has no number in common with base" in Page(tmp_path / "report.html").text


def test_the_page_says_how_sure_it_is_in_the_codes_numbers(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = make(bench)
    monkeypatch.setattr("danceopd.evaluation.report.DRAWS", 1234)
    monkeypatch.setattr("danceopd.evaluation.report.LEVEL_TITLE", "90 %")
    monkeypatch.setattr("danceopd.evaluation.report.LEFT_OUT", 0.125)
    write(bench, report, tmp_path)
    text = Page(tmp_path / "report.html").text
    assert "90 % of 1,234 paired bootstrap draws" in text and "more than 12.5 % of the images" in text
    assert "95 %" not in text


def test_who_is_alone_has_scores(bench: Bench, tmp_path: Path) -> None:
    report = make_report(RECORD, {"student": rows_of(bench, 1, 4.0)}, bench.cases())
    write(bench, report, tmp_path)
    assert "compared with nobody" in Page(tmp_path / "report.html").text


def test_images_that_cannot_be_read_leave_a_gap(bench: Bench, tmp_path: Path) -> None:
    report = make(bench)
    images = {"student": bench.folder / "student", "base": tmp_path / "gone", "expert": tmp_path / "gone"}
    write_report(report, tmp_path / "report", bench, images)
    assert len(Page(tmp_path / "report" / "report.html").images) == 2


def test_a_former_reports_pictures_do_not_stay(bench: Bench, tmp_path: Path) -> None:
    write(bench, make(bench), tmp_path)
    few = make_report(RECORD, {"student": rows_of(bench, 1, 4.0)}, bench.cases())
    assert "worst-base-edit.png" not in write(bench, few, tmp_path)


def test_a_radars_long_labels_break_where_they_can() -> None:
    labels = ("background_change", "subject-replace", "a category of a long name", "unbreakableasitis", "add")
    plot = radar("x", {"student": dict.fromkeys(labels, 1.0)})
    assert plot is not None
    assert [axis.label for axis in plot.axes] == [
        ("background_", "change"),
        ("subject-", "replace"),
        ("a category", "of a long n…"),
        ("unbreakable…",),
        ("add",),
    ]


def test_a_radar_needs_three_axes_and_takes_losses_below_nothing() -> None:
    assert radar("x", {"student": {"a": 1.0, "b": 2.0}}) is None
    plot = radar("x", {"student": {"a": -1.0, "b": 0.0, "c": 1.0}, "expert": {"a": 1.0}})
    assert plot is not None and list(plot.lines) == ["student"]
    assert plot.scale == "-1 in the middle, 1 at the rim"
    assert plot.lines["student"].split()[0] == "220.0,150.0"
