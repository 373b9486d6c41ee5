"""The retention report: what a student kept, in JSON, CSV, Markdown, pictures and one page."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from danceopd.evaluation.base import Benchmark, Capability, Case, Measured, MetricInfo
from danceopd.evaluation.intervals import DRAWS
from danceopd.evaluation.radar import Radar, radar
from danceopd.evaluation.record import Record
from danceopd.evaluation.retention import LEFT_OUT, Comparison, Score, compare, scores
from danceopd.evaluation.tables import LEVEL_TITLE, OVERALL, as_csv, as_markdown, interval, number, signed
from danceopd.evaluation.worst import Losses, draw_losses, worst_losses
from danceopd.files import write_whole
from danceopd.page import data_uri, write_page

PAGE: Final = "report.html"

_DIGITS: Final = 6  # significant ones: fewer than a sum's order, or another BLAS, can change
_BY: Final = "@"  # in the name of a judge's measure


@dataclass(frozen=True)
class Problem:
    """Images of a contender without a number, for one reason; an image with two reasons is in two of them.

    Attributes:
        contender: whose.
        problem: the reason.
        images: how many, by case and number.
        example: key of the first case.
    """

    contender: str
    problem: str
    images: int
    example: str


@dataclass(frozen=True)
class Report:
    """What is reported of an evaluation; every number has six significant digits.

    Attributes:
        benchmark: its name.
        fingerprint: of the copy.
        settings: seed, num_steps and guidance_scale of all images.
        contenders: their names, the student's first.
        models: what each one is, by name.
        measures: the metrics.
        measured_by: what measured a metric, by its name.
        leading: by capability, the metric that plots and worst losses go by: the last measure of the first
            judge, or the first metric of which more or less is better; of those that all who are compared
            have, where there is one.
        margin: what counts as no loss, as a share of the other's mean.
        comparisons: the student beside every other contender.
        scores: the means of every contender.
        problems: images without a number, whatever the metric.
        lacking: how many images lack a number, each counted once, by contender; only who has some.
        losses: the worst of the leading metrics.
    """

    benchmark: str
    fingerprint: str
    settings: Mapping[str, Any]
    contenders: tuple[str, ...]
    models: Mapping[str, Mapping[str, Any]]
    measures: tuple[MetricInfo, ...]
    measured_by: Mapping[str, str]
    leading: Mapping[Capability, str]
    margin: float
    comparisons: tuple[Comparison, ...]
    scores: tuple[Score, ...]
    problems: tuple[Problem, ...]
    lacking: Mapping[str, int]
    losses: tuple[Losses, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)


class _Section(NamedTuple):
    """A table of the page."""

    title: str
    note: str
    capability: str
    leads: bool
    rows: list[Comparison]


class _Part(NamedTuple):
    """A row of the page's summary."""

    capability: str
    title: str
    overall: Comparison
    counts: str


class _Picture(NamedTuple):
    against: str
    capability: str
    title: str
    uri: str | None
    losses: Losses


def make_report(
    record: Record,
    rows: Mapping[str, Sequence[Measured]],
    cases: Sequence[Case],
    *,
    margin: float = 0.05,
    only: Mapping[str, frozenset[str]] | None = None,
    models: Mapping[str, Mapping[str, Any]] | None = None,
) -> Report:
    """Compare measurements; equal ones make an equal report, in whatever order they were made.

    Args:
        record: what was measured, and how.
        rows: the measurements of each contender by its name, the student first.
        cases: of the benchmark.
        margin: what counts as no loss, as a share of the other's mean.
        only: capabilities and categories that a contender is compared on, by its name; all where it has none.
        models: what each contender is, such as the hashes of its weights.

    Raises:
        ValueError: `margin` is below 0.
    """
    student, *others = rows
    infos = {info.name: info for info in record.measures}
    leading = _leading(rows, record.measures)
    found = compare(
        rows[student], {name: rows[name] for name in others}, record.measures, margin=margin, only=only
    )
    known, losses = {case.key: case for case in cases}, []
    for name in others:
        part = (only or {}).get(name, frozenset())
        shown = {key: of for key, of in known.items() if not part or {of.capability, of.category} & part}
        for capability, metric in leading.items():
            better = infos[metric].higher_is_better
            if better is None:
                continue
            worst = worst_losses(rows[student], rows[name], shown, capability, metric, better)
            if worst:
                losses.append(Losses(name, capability, metric, worst))
    return Report(
        record.benchmark,
        record.fingerprint,
        record.settings,
        tuple(rows),
        {name: dict(of) for name, of in (models or {}).items()},
        record.measures,
        record.by,
        leading,
        margin,
        tuple(map(_rounded, found)),
        tuple(map(_rounded, scores(rows, record.measures))),
        _problems(rows),
        _lacking(rows),
        tuple(losses),
    )


def write_report(report: Report, folder: Path, benchmark: Benchmark, images: Mapping[str, Path]) -> Path:
    """Write report.json, table.csv, table.md, worst-NAME-CAPABILITY.png and report.html into a folder.

    Args:
        report: what to write.
        folder: made when it is not there; a former report in it is replaced.
        benchmark: whose images they are.
        images: the folder of each contender's images, by name.

    Returns:
        The page, one file that opens without a network.

    Raises:
        OSError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for former in folder.glob("worst-*.png"):
        former.unlink()  # of contenders that this report may not have
    student, titles = report.contenders[0], {info.name: info.title for info in report.measures}
    pictures = []
    for losses in report.losses:
        shown = [name for name in ("base", losses.against, student) if name in images]
        path = draw_losses(
            folder / f"worst-{losses.against}-{losses.capability}.png",
            losses,
            benchmark,
            student,
            {name: images[name] for name in shown},
        )
        uri = None if path is None else data_uri(path)
        pictures.append(_Picture(losses.against, losses.capability, titles[losses.metric], uri, losses))
    text = json.dumps(report.to_dict(), indent=2, sort_keys=True, ensure_ascii=False)
    write_whole(folder / "report.json", f"{text}\n".encode())
    write_whole(folder / "table.csv", as_csv(report.comparisons).encode())
    write_whole(folder / "table.md", as_markdown(report.comparisons, report.measures).encode())
    return write_page(
        folder / PAGE,
        __package__,
        "report.html.j2",
        report=report,
        student=student,
        summary=_summary(report, titles),
        radars=_radars(report, titles),
        sections=_sections(report),
        pictures=pictures,
        overall=OVERALL,
        level=LEVEL_TITLE,
        draws=f"{DRAWS:,}",
        left_out=f"{100 * LEFT_OUT:g} %",
        number=number,
        signed=signed,
        interval=interval,
        models=json.dumps(report.models, indent=2, sort_keys=True, ensure_ascii=False),
    )


def _leading(rows: Mapping[str, Sequence[Measured]], measures: Sequence[MetricInfo]) -> dict[Capability, str]:
    there = [{(row.capability, row.metric) for row in measured} for measured in rows.values()]
    capabilities: tuple[Capability, ...] = ("t2i", "edit")
    found = {}
    for capability in capabilities:
        ours, *others = ({name for of, name in each if of == capability} for each in there)
        # What only the student has been scored by, such as results of an evaluator, compares with nobody.
        shared = ours.intersection(*filter(None, others))
        asked = [info for info in measures if info.name in (shared or ours)]
        if asked:
            found[capability] = _first(asked)
    return found


def _first(asked: Sequence[MetricInfo]) -> str:
    judged = [info.name for info in asked if _BY in info.name]
    if judged:
        by = judged[0].partition(_BY)[2]
        return [name for name in judged if name.partition(_BY)[2] == by][-1]
    return next((info.name for info in asked if info.higher_is_better is not None), asked[0].name)


def _rounded(row: Any) -> Any:
    values = {
        field.name: float(f"{value:.{_DIGITS}g}")
        for field in dataclasses.fields(row)
        if isinstance(value := getattr(row, field.name), float)
    }
    return dataclasses.replace(row, **values)


def _problems(rows: Mapping[str, Sequence[Measured]]) -> tuple[Problem, ...]:
    found = []
    for name, measured in rows.items():
        images: dict[str, set[tuple[str, int]]] = defaultdict(set)
        for row in measured:
            if row.problem is not None:
                images[row.problem].add((row.case, row.number))
        told = [Problem(name, problem, len(of), min(of)[0]) for problem, of in images.items()]
        found += sorted(told, key=lambda one: (-one.images, one.problem))
    return tuple(found)


def _lacking(rows: Mapping[str, Sequence[Measured]]) -> dict[str, int]:
    images = {
        name: {(row.case, row.number) for row in measured if row.problem is not None}
        for name, measured in rows.items()
    }
    return {name: len(of) for name, of in images.items() if of}


def _summary(report: Report, titles: Mapping[str, str]) -> list[_Part]:
    parts = []
    for capability, metric in report.leading.items():
        for name in report.contenders[1:]:
            rows = [
                row
                for row in report.comparisons
                if (row.against, row.capability, row.metric) == (name, capability, metric)
            ]
            if rows:
                each = Counter(row.verdict for row in rows if row.category is not None)
                counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(each.items()))
                parts.append(_Part(capability, titles[metric], rows[0], counts))
    return parts


def _radars(report: Report, titles: Mapping[str, str]) -> list[Radar]:
    found = []
    for capability, metric in report.leading.items():
        series: dict[str, dict[str, float]] = {name: {} for name in report.contenders}
        for score in report.scores:
            asked = (score.capability, score.metric) == (capability, metric)
            if asked and score.category is not None and score.mean is not None:
                series[score.contender][score.category] = score.mean
        plot = radar(f"{titles[metric]} ({capability})", {name: of for name, of in series.items() if of})
        if plot is not None:
            found.append(plot)
    return found


def _sections(report: Report) -> list[_Section]:
    found = []
    for capability, leader in report.leading.items():
        for info in report.measures:
            rows = [
                row for row in report.comparisons if (row.capability, row.metric) == (capability, info.name)
            ]
            direction = {
                True: "more is better",
                False: "less is better",
                None: "neither more nor less is better",
            }
            if rows:
                rows.sort(key=lambda row: (row.category is not None, row.category or ""))
                note = direction[info.higher_is_better]
                found.append(_Section(info.title, note, capability, info.name == leader, rows))
    return found
