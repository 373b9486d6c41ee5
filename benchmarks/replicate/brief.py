"""Tables narrow enough for a document: what is scored, how far from the reference, at what price."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Final

from .arms import GROUNDS, REFERENCES, VALIDATED, label_of, place_of
from .records import COMPUTE, Run
from .tables import HALF_WAY, Table, gaps_table, of_validation, suite_tables

_KEPT: Final = ("arm", "budget", "seeds", "mean")
_NOTE: Final = (
    "Scores: percent of test tasks fulfilled, mean ± standard deviation over seeds; difference of means with "
    f"a 95 % bootstrap interval over seeds and tasks, paired; compute: {COMPUTE}."
)


def brief_tables(runs: Sequence[Run]) -> list[Table]:
    """Every suite's tables with the columns that a reader looks at first."""
    suites = dict.fromkeys(run.suite for run in runs if run.gap and run.budget == "updates")
    return [_brief(table) for table in suite_tables(runs)] + [_gaps(runs, suite) for suite in suites]


def _gaps(runs: Sequence[Run], suite: str) -> Table:
    """The field gap at high noise and at low noise, a column per route."""
    table = gaps_table([run for run in runs if (run.suite, run.budget) == (suite, "updates")])
    order = [ground for grounds in GROUNDS.values() for ground in grounds]
    routes = sorted({row["route"] for row in table.rows}, key=order.index)
    errors: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for row in table.rows:
        if row["error"] != "":
            of_route = errors.setdefault(row["arm"], {}).setdefault(row["route"], ([], []))
            of_route[row["sigma"] <= HALF_WAY].append(1000 * row["error"])
    arms = sorted(errors, key=place_of)
    cells = [(label_of(arm, suite), *(_halves(errors[arm].get(route)) for route in routes)) for arm in arms]
    return Table(
        f"brief-gaps-{suite}",
        f"Field gap, {suite}",
        f"Mean squared error x 1000 at sigma above {HALF_WAY:g} / at most {HALF_WAY:g}, at equal updates.",
        ("arm", *routes),
        tuple(cells),
        frozenset(place for place, arm in enumerate(arms) if arm == REFERENCES.get(suite)),
        table.rows,
        suite,
    )


def _halves(errors: tuple[list[float], list[float]] | None) -> str:
    if errors is None:
        return "-"
    return " / ".join(f"{fmean(half):.1f}" if half else "-" for half in errors)


def _brief(table: Table) -> Table:
    grounds = [name.removesuffix(" diversity") for name in table.columns if name.endswith(" diversity")]
    wanted = {*_KEPT, *grounds, "compute"}
    places = [
        place for place, name in enumerate(table.columns) if name in wanted or name.startswith("mean - ")
    ]
    return Table(
        f"brief-{table.name}",
        table.title,
        of_validation(_NOTE) if table.suite in VALIDATED else _NOTE,
        tuple(table.columns[place] for place in places),
        tuple(tuple(cells[place] for place in places) for cells in table.cells),
        table.marked,
        table.rows,
        table.suite,
    )
