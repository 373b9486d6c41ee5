"""The committed replication is what its runs say."""

from __future__ import annotations

from pathlib import Path

import pytest
from replicate.brief import brief_tables
from replicate.claims import judge
from replicate.records import Run, read_runs
from replicate.stats import outcomes
from replicate.suites import LABELS, RATES
from replicate.tables import claims_table, suite_tables

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "replication"


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    return read_runs(RESULTS / "runs.jsonl.gz")


@pytest.mark.parametrize("setting", ["t2i-edit", "local-global"])
@pytest.mark.parametrize("method", RATES)
def test_every_method_has_the_rate_that_it_did_best_with(runs: list[Run], method: str, setting: str) -> None:
    tried = {
        run.learning_rate: float(outcomes([run]).scores().mean())
        for run in runs
        if (run.suite, run.setting, run.method) == ("tune", setting, method)
    }
    assert len(tried) == 3
    assert RATES[method][setting] == max(tried, key=lambda rate: tried[rate])
    label = LABELS.get(method, method)
    used = {
        run.learning_rate for run in runs if (run.suite, run.setting, run.arm) == ("main", setting, label)
    }
    assert used == {RATES[method][setting]}


def test_tables_are_those_of_the_runs(runs: list[Run]) -> None:
    tables = [*suite_tables(runs), *brief_tables(runs), claims_table(judge(runs))]
    assert tables
    for table in tables:
        kept = (RESULTS / "tables" / f"{table.name}.md").read_text(encoding="utf-8")
        assert kept == table.to_markdown(), table.name
