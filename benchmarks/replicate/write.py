"""Everything that is told about a folder of runs, written into it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from danceopd.files import write_whole
from danceopd.page import data_uri, write_page

from .arms import place_of, settings_of
from .brief import brief_tables
from .claims import CLAIMS, Finding, judge
from .drawing import Drawing, check_matplotlib
from .figures import draw_all
from .made_by import different, of_other_code
from .records import Run
from .stats import outcomes
from .tables import (
    READING,
    Table,
    checks_table,
    claims_table,
    curves_table,
    gaps_table,
    suite_tables,
    suites_of,
)
from .verdicts import FEWEST_SEEDS

TABLES: Final = "tables"
FIGURES: Final = "figures"
RESULTS: Final = "results.json"
REPORT: Final = "report.html"

_TITLES: Final = {
    "main": "Every method",
    "routing": "Routing: one teacher per sample, a mixture, or another one at each step",
    "query": "Query: which state of the rollout is asked",
    "k": "K: how many states are asked",
    "steps": "Steps of the rollout",
    "loss": "Loss",
    "init": "Where the student starts",
    "cfg": "Guidance, absorbed and added",
    "beyond": "Query laws beyond the paper",
    "longer": "Four times the updates",
    "tune": "Learning rates, on validation tasks",
}


def write_report(records: Sequence[Run], out: Path) -> None:
    """Write tables/, figures/, results.json and report.html of all runs into `out`.

    Tables and results depend on the runs alone: written twice, they are equal byte for byte. What an earlier
    call has left in tables/ and figures/ goes.

    Raises:
        ModuleNotFoundError: without matplotlib.
        ValueError: there are no runs, or runs that cannot be compared.
        OSError: a file cannot be written.
    """
    check_matplotlib()
    if not records:
        raise ValueError(f"there are no runs to report in '{out}': run a suite first.")
    runs = sorted(records, key=lambda r: (r.suite, r.setting, place_of(r.arm), r.budget, r.seed))
    findings = judge(runs)
    suites = suite_tables(runs)
    others = [claims_table(findings), checks_table(findings), curves_table(runs), gaps_table(runs)]
    told = [table for table in (*suites, *brief_tables(runs), *others) if table.rows]
    _write_tables(told, _emptied(out / TABLES, (".md", ".csv", ".json")))
    figures = draw_all(runs, _emptied(out / FIGURES, (".png",)))
    _write_json(out / RESULTS, _results(runs, findings, suites))
    _write_page(out / REPORT, runs, findings, suites, figures)


def _emptied(folder: Path, suffixes: Sequence[str]) -> Path:
    """The folder without what an earlier call wrote, of which some may have no runs any more."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.suffix in suffixes:
            path.unlink()
    return folder


def _write_tables(tables: Sequence[Table], folder: Path) -> None:
    for table in tables:
        write_whole(folder / f"{table.name}.md", table.to_markdown().encode())
        write_whole(folder / f"{table.name}.csv", table.to_csv().encode())
        content = {"title": table.title, "note": table.note, "rows": table.rows}
        _write_json(folder / f"{table.name}.json", content)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_whole(path, (json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode())


def _results(runs: Sequence[Run], findings: Sequence[Finding], suites: Sequence[Table]) -> dict[str, Any]:
    return {
        "claims": claims_table(findings).rows,
        "checks": checks_table(findings).rows,
        "tables": {table.name: table.rows for table in suites},
        "runs": [
            {
                "suite": run.suite,
                "setting": run.setting,
                "arm": run.arm,
                "budget": run.budget,
                "seed": run.seed,
                "method": run.method,
                "updates": run.updates,
                "learning_rate": run.learning_rate,
                "compute": run.compute,
                "seconds": run.seconds,
                "scores": {
                    ground: round(float(outcomes([run]).scores(ground)[0]), 6) for ground in run.tasks
                },
                "diversity": run.diversity,
            }
            for run in runs
        ],
    }


def _write_page(
    path: Path,
    runs: Sequence[Run],
    findings: Sequence[Finding],
    tables: Sequence[Table],
    figures: Sequence[Drawing],
) -> None:
    by_name = {
        figure.path.stem: {"uri": data_uri(figure.path), "title": figure.title, "note": figure.note}
        for figure in figures
    }
    chapters = [
        {
            "title": _TITLES.get(suite, suite),
            "settings": [(table, by_name.pop(table.name, None)) for table in tables if table.suite == suite],
        }
        for suite in suites_of(runs)
    ]
    judged: dict[str, dict[str, Finding]] = {}
    for finding in findings:
        judged.setdefault(finding.claim.name, {})[finding.budget] = finding
    write_page(
        path,
        __package__,
        "report.html.j2",
        tiles=_tiles(runs, findings),
        claims=[(claim, judged[claim.name]) for claim in CLAIMS],
        reading=READING,
        chapters=chapters,
        figures=list(by_name.values()),
        fewest_seeds=FEWEST_SEEDS,
        code=of_other_code(runs),
    )


def _tiles(runs: Sequence[Run], findings: Sequence[Finding]) -> dict[str, str]:
    # A student that stands in several tables was trained once.
    trained = different([run for run in runs if run.budget != "none"])
    verdicts = Counter(finding.verdict for finding in findings if finding.budget == "updates")
    hours = sum(run.seconds for run in trained) / 3600
    return {
        "settings": str(len(settings_of(runs))),
        "trained students": f"{len(trained):,}",
        "seeds": str(len({run.seed for run in trained}) or "-"),
        "training": f"{hours:.1f} CPU h" if hours >= 1 else f"{60 * hours:.0f} CPU min",
        **{verdict: str(verdicts[verdict]) for verdict in ("reproduced", "not reproduced", "undecided")},
    }
