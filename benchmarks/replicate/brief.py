"""Tables narrow enough for a document: what is scored, how far from the reference, at what price."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from replicate.records import Run
from replicate.tables import Table, suite_tables

_KEPT: Final = ("arm", "budget", "seeds", "mean")
_NOTE: Final = (
    "Scores: percent of test tasks fulfilled, mean ± standard deviation over seeds; difference of means with "
    "a 95 % bootstrap interval over seeds and tasks, paired; compute: thousands of student forwards of one "
    "sample."
)


def brief_tables(runs: Sequence[Run]) -> list[Table]:
    """Every suite's tables with the columns that a reader looks at first."""
    return [_brief(table) for table in suite_tables(runs)]


def _brief(table: Table) -> Table:
    grounds = [name.removesuffix(" diversity") for name in table.columns if name.endswith(" diversity")]
    wanted = {*_KEPT, *grounds, "compute"}
    places = [
        place for place, name in enumerate(table.columns) if name in wanted or name.startswith("mean - ")
    ]
    return Table(
        f"brief-{table.name}",
        table.title,
        _NOTE,
        tuple(table.columns[place] for place in places),
        tuple(tuple(cells[place] for place in places) for cells in table.cells),
        table.marked,
        table.rows,
        table.suite,
    )
