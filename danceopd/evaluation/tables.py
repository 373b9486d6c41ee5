"""The comparisons of a report as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Final

from danceopd.evaluation.base import MetricInfo
from danceopd.evaluation.intervals import LEVEL
from danceopd.evaluation.retention import Comparison

OVERALL: Final = "all categories"
LEVEL_TITLE: Final = f"{100 * LEVEL:g} %"
"""Of the intervals."""

_COLUMNS: Final = (
    "capability",
    "category",
    "metric",
    "against",
    "student",
    "other",
    "difference",
    "low",
    "high",
    "margin",
    "cases",
    "left_out",
    "verdict",
)


def as_csv(comparisons: Sequence[Comparison]) -> str:
    """A line per comparison; the category of a mean over categories is blank."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for row in comparisons:
        given = (getattr(row, name) for name in _COLUMNS)
        writer.writerow(["" if value is None else value for value in given])
    return text.getvalue()


def as_markdown(comparisons: Sequence[Comparison], measures: Sequence[MetricInfo]) -> str:
    """A table per capability and metric."""
    titles = {info.name: info.title for info in measures}
    parts: dict[tuple[str, str], list[Comparison]] = {}
    for row in comparisons:
        parts.setdefault((row.capability, row.metric), []).append(row)
    lines = []
    for (capability, metric), rows in parts.items():
        lines += [f"## {_cell(titles[metric])} ({capability})", ""]
        columns = f"student | other | difference | {LEVEL_TITLE} interval | cases | verdict"
        lines += [f"| category | against | {columns} |"]
        lines += ["|---|---|--:|--:|--:|--:|--:|---|"]
        for row in rows:
            cells = [
                row.category or f"**{OVERALL}**",
                row.against,
                number(row.student),
                number(row.other),
                signed(row.difference),
                interval(row),
                f"{row.cases} (without {row.left_out})" if row.left_out else str(row.cases),
                row.verdict,
            ]
            lines.append(f"| {' | '.join(map(_cell, cells))} |")
        lines.append("")
    return "\n".join(lines)


def number(value: float | None) -> str:
    """In a few digits."""
    return "–" if value is None else f"{value:.4g}"


def signed(value: float) -> str:
    """In a few digits, with its sign."""
    return "0" if value == 0 else f"{value:+.3g}"


def interval(row: Comparison) -> str:
    """The ends of a comparison's interval."""
    if row.low is None or row.high is None:
        return "none"
    return f"{signed(row.low)} to {signed(row.high)}"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
