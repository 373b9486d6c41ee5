"""The committed replication is what its runs say."""

from __future__ import annotations

from pathlib import Path

import pytest
from replicate.brief import brief_tables
from replicate.claims import judge
from replicate.records import Run, read_runs
from replicate.stats import outcomes
from replicate.suites import FLOW_GRID, FURTHER, GRID, LABELS, RATES, RATES_AT_COMPUTE
from replicate.tables import claims_table, suite_tables

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "replication"


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    return read_runs(RESULTS / "runs.jsonl.gz")


@pytest.mark.parametrize("setting", ["t2i-edit", "local-global"])
@pytest.mark.parametrize("method", RATES)
@pytest.mark.parametrize("budget", ["updates", "compute"])
def test_every_method_has_the_rate_that_it_did_best_with(
    runs: list[Run], method: str, setting: str, budget: str
) -> None:
    rate = (RATES if budget == "updates" else RATES_AT_COMPUTE)[method][setting]
    tried = {
        run.learning_rate: float(outcomes([run]).scores().mean())
        for run in runs
        if (run.suite, run.setting, run.method, run.budget) == ("tune", setting, method, budget)
    }
    grid = FLOW_GRID if method == "flowopd" else GRID if budget == "updates" else (*GRID, FURTHER)
    assert set(tried) == set(grid)
    assert tried[rate] == max(tried.values())
    label = LABELS.get(method, method)
    used = {
        run.learning_rate
        for run in runs
        if (run.suite, run.setting, run.arm, run.budget) == ("main", setting, label, budget)
    }
    assert used == {rate}


def test_tables_are_those_of_the_runs(runs: list[Run]) -> None:
    tables = [*suite_tables(runs), *brief_tables(runs), claims_table(judge(runs))]
    assert tables
    for table in tables:
        kept = (RESULTS / "tables" / f"{table.name}.md").read_text(encoding="utf-8")
        assert kept == table.to_markdown(), table.name
