"""How a replication is judged and told: intervals, verdicts, tables, page. Its runs are made up."""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from replicate import bars, curves, paper, stats
from replicate.arms import BASELINES, GROUNDS, REFERENCE, absorbed_by, label_of, place_of, runs_of
from replicate.brief import brief_tables
from replicate.claims import CLAIMS, Finding, judge
from replicate.drawing import Drawing
from replicate.guidance import compositions
from replicate.made_by import installed, of_other_code
from replicate.palette import colours_of
from replicate.records import COMPUTE, Run
from replicate.stats import Estimate, Outcomes, difference, kept_share, mean_and_sd, outcomes, score
from replicate.tables import READING, Table, gaps_table, suite_table, suite_tables
from replicate.verdicts import (
    ABOVE,
    CLOSE,
    FEWEST_SEEDS,
    NO_TRADE_OFF,
    NOT_BELOW,
    Check,
    Rule,
    Verdict,
    decide,
)
from replicate.write import RESULTS, write_report

from tests.page.html import Page
from tests.replication_runs import CATEGORIES, MAIN, make_run

SOURCES = [name for name in MAIN if name.startswith("source")]
LEARNING = ("joint training", "offpolicy", "diffusionopd")


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "DRAWS", 400)


def arm(tasks: np.ndarray, *, seeds: Sequence[int] | None = None, trained: bool = True) -> Outcomes:
    """tasks: [categories, S, T]."""
    chosen = tuple(range(tasks.shape[1])) if seeds is None else tuple(seeds)
    categories = {str(place): given.astype(np.float32) for place, given in enumerate(tasks)}
    return Outcomes(chosen, trained, {"ground": categories})


def main_runs(
    seeds: Sequence[int], shares: Mapping[str, tuple[float, float]] = MAIN, count: int = 24
) -> list[Run]:
    """The main table of both settings, without a run that a setting has no use for."""
    runs = []
    for setting, grounds in GROUNDS.items():
        sources = {"source: base" if ground == "t2i" else f"source: {ground}" for ground in grounds}
        for name, share in shares.items():
            if name in sources or name == "weight merge":
                runs.append(make_run(name, 0, setting, share, budget="none", count=count))
            elif not name.startswith("source"):
                budgets = ("updates", "compute")
                runs += [
                    make_run(name, seed, setting, share, budget=budget, count=count, curve=name == REFERENCE)
                    for seed in seeds
                    for budget in budgets
                ]
    return runs


def verdict_of(runs: Sequence[Run], name: str, budget: str = "updates") -> Finding:
    (found,) = [f for f in judge(runs) if f.claim.name == name and f.budget == budget]
    return found


# -- intervals -----------------------------------------------------------------------------------------------
def test_the_deviation_is_that_of_a_sample_and_one_seed_has_none() -> None:
    assert mean_and_sd([0.1, 0.2, 0.3]) == pytest.approx((0.2, 0.1))
    assert mean_and_sd([0.4]) == (0.4, None)


def test_intervals_of_many_prompts_are_those_of_the_binomial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "DRAWS", 4000)
    tasks = (np.arange(400) % 4 == 0)[None, None]
    found = score(arm(tasks, trained=False), "ground")
    wanted = 1.96 * (0.25 * 0.75 / 400) ** 0.5
    assert found.value == pytest.approx(0.25)
    assert found.high - found.value == pytest.approx(wanted, rel=0.1)
    assert found.value - found.low == pytest.approx(wanted, rel=0.1)


def test_intervals_hold_the_truth_as_often_as_they_say_and_are_not_idle() -> None:
    drawn = np.random.default_rng(0)
    held, widths, spread = [], [], []
    for _ in range(150):
        hard = drawn.random((2, 1, 24))
        own = [
            (0.5 * hard + 0.5 * drawn.random((2, 3, 24)) < 0.5 + drawn.normal(0, 0.03, (1, 3, 1)))
            for _ in range(2)
        ]
        found = difference(arm(own[0]), arm(own[1]), "ground")
        assert found is not None
        held.append(found.low <= 0 <= found.high)
        widths.append(found.high - found.low)
        spread.append(found.value)
    assert np.mean(held) >= 0.93
    assert np.mean(widths) < 2 * 2 * 1.96 * np.std(spread)


def test_intervals_over_few_seeds_know_how_few_they_are() -> None:
    drawn = np.random.default_rng(2)
    held = []
    for _ in range(300):
        levels = drawn.normal(0.5, 0.1, (1, 3, 1))
        found = score(arm(np.repeat(levels, 16, axis=2)), "ground")  # seeds are all that matters
        held.append(found.low <= 0.5 <= found.high)
    assert 0.9 <= np.mean(held) <= 0.98
    same = arm(np.tile([1, 0, 0, 1], (2, 3, 4)))
    few, alone = score(same, "ground"), score(same.only((0,)), "ground")
    assert (few.low, few.high) == pytest.approx((alone.low, alone.high))  # seeds that agree add nothing


def test_pairing_makes_the_interval_narrower() -> None:
    drawn = np.random.default_rng(1)
    hard = drawn.random((3, 1, 40))
    own, other = (0.8 * hard + 0.2 * drawn.random((3, 3, 40)) < share for share in (0.55, 0.5))
    paired = difference(arm(own), arm(other), "ground")
    apart = difference(arm(own), arm(drawn.permuted(other, axis=2)), "ground")
    assert paired is not None and apart is not None
    assert paired.value == pytest.approx(apart.value)
    assert paired.high - paired.low < 0.8 * (apart.high - apart.low)


def test_only_common_seeds_are_paired() -> None:
    tasks = np.asarray([[[1, 1], [0, 0], [1, 0]]])
    own, other = arm(tasks, seeds=(0, 1, 2)), arm(1 - tasks, seeds=(1, 2, 5))
    found = difference(own, other)
    assert found is not None
    assert (found.value, found.seeds) == (0.25 - 0.5, 2)
    assert difference(own, arm(tasks, seeds=(7, 8, 9))) is None
    untrained = arm(tasks[:, :1], seeds=(0,), trained=False)
    for found, wanted in ((difference(own, untrained), -0.5), (difference(untrained, own), 0.5)):
        assert found is not None
        assert (found.value, found.seeds) == (pytest.approx(wanted), 3)


def test_a_share_is_kept_of_what_the_expert_has() -> None:
    expert = arm(np.ones((2, 1, 8)), trained=False)
    student = arm(np.tile([1, 1, 1, 0], (2, 3, 2)))
    found = kept_share(student, expert, "ground")
    assert found is not None and found.value == 0.75 and found.low < 0.75 < found.high
    assert kept_share(student, arm(np.zeros((2, 1, 8)), trained=False), "ground") is None


def test_runs_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(ValueError, match="seeds \\[1, 1\\], one of them twice"):
        outcomes([make_run("joint training", 1), make_run("joint training", 1)])
    with pytest.raises(ValueError, match="different tasks"):
        outcomes([make_run("joint training", 0), make_run("joint training", 1, count=8)])
    with pytest.raises(ValueError, match="different tasks"):
        difference(outcomes([make_run("joint training")]), outcomes([make_run("soft", count=8)]))


# -- verdicts ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("rule", "low", "high", "wanted"),
    [
        (ABOVE, 0.01, 0.05, "reproduced"),
        (ABOVE, -0.01, 0.05, "undecided"),
        (ABOVE, -0.05, -0.01, "not reproduced"),
        (ABOVE, 0.0, 0.0, "undecided"),
        (NOT_BELOW, -0.02, 0.5, "reproduced"),
        (NOT_BELOW, -0.04, 0.5, "undecided"),
        (NOT_BELOW, -0.09, -0.04, "not reproduced"),
        (CLOSE, -0.02, 0.02, "reproduced"),
        (CLOSE, -0.02, 0.04, "undecided"),
        (CLOSE, 0.04, 0.09, "not reproduced"),
        (NO_TRADE_OFF, 0.96, 1.02, "reproduced"),
        (NO_TRADE_OFF, 0.90, 1.02, "undecided"),
        (NO_TRADE_OFF, 0.80, 0.94, "not reproduced"),
    ],
)
def test_a_verdict_needs_the_whole_interval(rule: Rule, low: float, high: float, wanted: Verdict) -> None:
    assert rule.verdict(Estimate((low + high) / 2, low, high, 3)) == wanted
    assert rule.verdict(Estimate((low + high) / 2, low, high, 1)) == "undecided"
    assert rule.verdict(None) == "no data"


def test_a_claim_holds_when_all_its_checks_hold() -> None:
    holds = Check("A against B", ABOVE, Estimate(0.2, 0.1, 0.3, 3))
    open_one = Check("A against C", ABOVE, Estimate(0.1, -0.1, 0.3, 3))
    refuted = Check("A against D", ABOVE, Estimate(-0.2, -0.3, -0.1, 3))
    missing = Check("A against E", ABOVE, None)
    assert decide([holds]) == ("reproduced", holds, "A against B: +20.0 points [+10.0, +30.0], 3 seeds.")
    assert decide([holds, open_one])[:2] == ("undecided", open_one)
    assert decide([holds, open_one, refuted, missing])[:2] == ("not reproduced", refuted)
    verdict, _, sentence = decide([holds, missing])
    assert verdict == "undecided" and "no runs for A against E" in sentence
    assert decide([missing])[:2] == decide([])[:2] == ("no data", None)
    wide = Check("A against F", CLOSE, Estimate(0.0, -0.04, 0.04, 3))
    assert decide([wide])[2].endswith("; 1 of the intervals too wide to hold, whatever the truth is.")
    assert "too wide" not in decide([replace(wide, estimate=Estimate(0.02, -0.02, 0.035, 3))])[2]


def test_what_is_plain_is_found_and_what_is_the_other_way_round_too() -> None:
    plain = {name: (0.3, 0.3) for name in MAIN} | {REFERENCE: (0.9, 0.9)}
    plain |= {name: (0.6, 0.6) for name in SOURCES}
    runs = main_runs((0, 1, 2), plain)
    for name in ("no trade-off", "above every baseline", "on-policy above off-policy"):
        assert verdict_of(runs, name).verdict == "reproduced"
    assert verdict_of(runs, "above every baseline", "compute").verdict == "reproduced"
    assert len(verdict_of(runs, "above every baseline").checks) == len(BASELINES) * len(GROUNDS)
    runs = main_runs((0, 1, 2), plain | {REFERENCE: (0.1, 0.1)})
    for name in ("no trade-off", "above every baseline", "on-policy above off-policy"):
        found = verdict_of(runs, name)
        assert found.verdict == "not reproduced"
        assert found.decisive is not None and found.decisive.verdict == "not reproduced"


def test_one_seed_decides_nothing_and_no_runs_are_no_data() -> None:
    plain = {name: (0.3, 0.3) for name in MAIN} | {REFERENCE: (0.9, 0.9)}
    runs = main_runs((0,), plain)
    assert verdict_of(runs, "above every baseline").verdict == "undecided"
    assert "1 seed." in verdict_of(runs, "above every baseline").sentence
    assert verdict_of(runs, "hard above soft").verdict == "no data"
    assert {finding.verdict for finding in judge([])} == {"no data"}


def test_longer_training_is_held_against_the_usual_against_experts_and_against_the_others() -> None:
    usual = {name: (0.3, 0.3) for name in MAIN} | {name: (0.6, 0.6) for name in SOURCES}
    names = ("more updates help", "no trade-off in the end", "above the others in the end")
    for student, wanted in ((0.9, "reproduced"), (0.1, "not reproduced")):
        runs = main_runs((0, 1, 2), usual)
        assert {verdict_of(runs, name).verdict for name in names} == {"no data"}
        runs += [
            make_run(arm, seed, setting, (share, share), suite="longer", budget=budget, count=24)
            for arm, share in ((REFERENCE, student), *((name, 0.4) for name in LEARNING))
            for setting in GROUNDS
            for seed in (0, 1, 2)
            for budget in ("updates", "compute")
        ]
        assert [verdict_of(runs, name).verdict for name in names] == [wanted] * 3
        assert verdict_of(runs, names[-1], "compute").verdict == wanted
        assert len(verdict_of(runs, names[-1]).checks) == (len(LEARNING) - 1) * len(GROUNDS)
        assert len(verdict_of(runs, names[-1], "compute").checks) == len(LEARNING) * len(GROUNDS)
        assert verdict_of(runs, "no trade-off").verdict == "not reproduced"


def test_a_missing_setting_leaves_a_claim_about_both_undecided() -> None:
    plain = {name: (0.3, 0.3) for name in MAIN} | {REFERENCE: (0.9, 0.9)}
    runs = [run for run in main_runs((0, 1), plain) if run.setting == "t2i-edit"]
    found = verdict_of(runs, "on-policy above off-policy")
    assert found.verdict == "undecided" and "local-global" in found.sentence
    shares = {"hard, per sample": (0.9, 0.9), "soft mixture": (0.2, 0.2)}
    runs += [
        make_run(arm, seed, shares=share, suite="routing", count=24)
        for arm, share in shares.items()
        for seed in (0, 1)
    ]
    assert verdict_of(runs, "hard above soft").verdict == "undecided"  # of two seeds
    runs += [make_run(arm, 2, shares=share, suite="routing", count=24) for arm, share in shares.items()]
    assert verdict_of(runs, "hard above soft").verdict == "reproduced"  # an ablation may have one setting


def test_the_best_of_many_equal_compositions_is_not_above_none() -> None:
    scales = {beta: (0.5,) for beta in (2.0, 3.0, 4.0, 5.0)}
    arms = {"base": "none"} | {f"alpha = {alpha}": "updates" for alpha in (2, 3, 4, 5)}
    runs = [
        make_run(arm, seed, "guided", (0.5,), suite="cfg", budget=budget, count=24, scales=scales, noise=1.0)
        for arm, budget in arms.items()
        for seed in range(1 if budget == "none" else 2)
    ]
    assert len(compositions(runs, "guided")) == 25
    assert verdict_of(runs, "guidance composes").verdict == "undecided"
    assert absorbed_by("alpha = 1.5") == 1.5 and absorbed_by("K = 4") is None
    names = {row["arm"] for row in suite_tables(runs)[0].rows}
    assert {"base", "base, beta = 2", "alpha = 5", "alpha = 5, beta = 5"} <= names


@pytest.mark.parametrize(
    ("both", "alone", "composes", "above_either"),
    [
        (0.9, 0.5, "reproduced", "reproduced"),
        (0.9, 0.9, "reproduced", "undecided"),
        (0.3, 0.9, "undecided", "not reproduced"),
    ],
)
def test_one_guidance_is_no_composition(both: float, alone: float, composes: str, above_either: str) -> None:
    runs = [
        make_run(arm, seed, "guided", (level,), suite="cfg", budget=budget, count=64, scales={2.0: (beyond,)})
        for arm, level, beyond, budget in (
            ("base", 0.3, alone, "none"),
            ("alpha = 2", alone, both, "updates"),
        )
        for seed in range(1 if budget == "none" else 3)
    ]
    assert verdict_of(runs, "guidance composes").verdict == composes
    found = verdict_of(runs, "both guidances above one")
    assert found.verdict == above_either and len(found.checks) == 2


# -- tables --------------------------------------------------------------------------------------------------
def row_of(table: Table, name: str, budget: str) -> dict[str, str]:
    place = next(i for i, row in enumerate(table.rows) if (row["arm"], row["budget"]) == (name, budget))
    return dict(zip(table.columns, table.cells[place], strict=True))


def test_a_table_says_what_one_seed_and_no_training_cannot_tell() -> None:
    runs = main_runs((0,))
    table = suite_table(runs, "main", "t2i-edit")
    student, expert = row_of(table, "flowopd", "updates"), row_of(table, "source: base", "none")
    assert student["mean"].endswith(" ± -") and student["seeds"] == "1"
    assert "±" not in expert["mean"] and expert["seeds"] == expert["compute"] == "-"
    assert "±" in row_of(suite_table(main_runs((0, 1)), "main", "t2i-edit"), "flowopd", "updates")["mean"]


def test_missing_seeds_are_left_out_of_the_pair_and_not_of_the_mean() -> None:
    runs = [run for run in main_runs((0, 1, 2)) if (run.arm, run.seed) != ("joint training", 1)]
    row = next(r for r in suite_table(runs, "main", "t2i-edit").rows if r["arm"] == "joint training")
    own, reference = (
        runs_of(runs, "main", "t2i-edit", "joint training", "updates"),
        runs_of(runs, "main", "t2i-edit", REFERENCE, "updates"),
    )
    assert row["seeds"] == 2
    assert row["mean"] == pytest.approx(np.mean([outcomes([run]).scores() for run in own]), abs=1e-5)
    common = [outcomes([run]).scores() for run in reference if run.seed != 1]
    assert row["difference"] == pytest.approx(row["mean"] - np.mean(common), abs=1e-5)


def test_ranks_stand_beside_those_of_the_paper() -> None:
    assert paper.ranks({"a": 3.0, "b": 5.0, "c": 3.0}) == {"a": 2, "b": 1, "c": 2}
    known = {*SOURCES, *BASELINES, REFERENCE}
    assert all({*table.values} <= known for table in paper.PUBLISHED if table.suite == "main")
    plain = {name: (0.5, 0.5) for name in MAIN} | {REFERENCE: (0.95, 0.95), "joint training": (0.1, 0.1)}
    table = suite_table(main_runs((0, 1), plain), "main", "local-global")
    assert row_of(table, REFERENCE, "updates")["rank GEdit"] == "1 / 1"
    assert row_of(table, "joint training", "updates")["rank GEdit"] == "8 / 7"
    without = [run for run in main_runs((0, 1), plain) if run.arm != "source: global"]
    assert (
        row_of(suite_table(without, "main", "local-global"), "joint training", "compute")["rank GEdit"]
        == "7 / 7"
    )


def test_arms_are_listed_as_in_the_paper_and_numbers_count() -> None:
    names = ["16 steps", "4 steps", "danceopd", "8 steps", "joint training", "source: base"]
    wanted = ["source: base", "joint training", "danceopd", "8 steps", "4 steps", "16 steps"]
    assert sorted(names, key=place_of) == wanted
    assert label_of("low", "query") == "low (DanceOPD)"


def test_noise_levels_that_no_state_was_at_are_left_out() -> None:
    run = make_run("joint training")
    sigmas = [0.25, 0.5, 0.75]
    runs = [
        replace(run, seed=seed, gap={"t2i": {"sigma": sigmas, "error": errors}})
        for seed, errors in enumerate(([0.1, None, 0.3], [0.3, math.nan, math.nan]))
    ]
    table = gaps_table(runs)
    assert [row["error"] for row in table.rows] == [0.2, "", 0.3]
    assert table.columns[-2:] == ("sigma > 0.5", "sigma <= 0.5")
    assert table.cells[0][-3:] == ("0.25", "0.3", "0.2")


def test_high_noise_is_told_from_low_in_whatever_order_states_come() -> None:
    gap = {"t2i": {"sigma": [1.0, 0.75, 0.5, 0.25], "error": [0.004, 0.002, 0.05, math.nan]}}
    (*_, brief) = brief_tables([replace(make_run("joint training"), gap=gap)])
    assert brief.name == "brief-gaps-main"
    assert brief.columns == ("arm", "t2i") and brief.cells == (("joint training", "3.0 / 50.0"),)


RATES = ("danceopd, 0.0005", "danceopd, 0.004", "flowopd, 1e-06", "flowopd, 1e-05", "flowopd, 0.0001")


def test_learning_rates_are_numbers_and_their_methods_have_names_and_colours() -> None:
    assert sorted(reversed(RATES), key=place_of) == list(RATES)
    assert label_of("diffusionopd, 0.004", "tune") == "DiffusionOPD, 0.004"
    assert label_of("joint training, 0.004", "tune") == "joint training, 0.004"
    assert label_of("low, shift 3", "query") == "low, shift 3"
    colours = colours_of([*RATES, "high to low"], "tune")
    assert {colours[name] for name in RATES} == {colours["danceopd"], colours["flowopd"]}
    assert colours["high to low"] not in {colours[name] for name in RATES}


def test_scores_on_validation_tasks_stand_beside_none_on_test_tasks() -> None:
    runs = main_runs((0,)) + [make_run(name, 1000, suite="tune", count=24) for name in RATES]
    table = suite_table(runs, "tune", "t2i-edit")
    (brief,) = [each for each in brief_tables(runs) if each.name == "brief-tune-t2i-edit"]
    for each in (table, brief):
        assert not [name for name in each.columns if "mean - " in name or "kept" in name]
        assert {len(cells) for cells in each.cells} == {len(each.columns)}
        assert "of validation tasks" in each.note and "test tasks" not in each.note
    assert row_of(table, "flowopd, 1e-06", "updates")["compute"] == "57.6"
    assert {row["t2i_kept"] for row in table.rows} == {""}
    usual = suite_table(runs, "main", "t2i-edit")
    assert {"mean - DanceOPD", "t2i kept %"} <= set(usual.columns) and "test tasks" in usual.note


def test_compute_has_one_name() -> None:
    assert COMPUTE in READING
    assert all(COMPUTE in table.note for table in brief_tables(main_runs((0,))) if "gaps" not in table.name)


# -- figures -------------------------------------------------------------------------------------------------
@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Figures by name, as they are saved."""
    pytest.importorskip("matplotlib")
    found: dict[str, Any] = {}

    def keep(figure: Any, folder: Path, name: str, title: str, note: str) -> Drawing:
        found[name] = figure
        return Drawing(folder / name, title, note)

    for module in (bars, curves):
        monkeypatch.setattr(module, "save", keep)
    return found


def dashed(panel: Any) -> list[Any]:
    return [line for line in panel.get_lines() if line.get_linestyle() == "--"]


def test_bars_on_validation_tasks_have_no_line_of_an_expert(drawn: dict[str, Any]) -> None:
    runs = [run for run in main_runs((0,), count=8) if run.setting == "t2i-edit"]
    runs += [make_run(name, 1000, suite="tune", count=8) for name in RATES]
    notes = {drawing.path.name: drawing.note for drawing in bars.draw_suites(runs, Path())}
    main, tune = drawn["main-t2i-edit"].axes, drawn["tune-t2i-edit"].axes
    assert [len(dashed(panel)) for panel in main] == [1, 1, 0] and not any(map(dashed, tune))
    assert "Dashed" in notes["main-t2i-edit"] and "Dashed" not in notes["tune-t2i-edit"]
    assert {panel.get_xlabel() for panel in tune} == {"% of validation tasks"}
    assert [label.get_text() for label in tune[0].get_yticklabels()] == [label_of(name) for name in RATES]


def test_a_curve_stands_beside_its_expert_on_the_same_tasks_and_ends_once(drawn: dict[str, Any]) -> None:
    student = make_run(REFERENCE, 0, curve=True)
    near = {**student.curve[-1], "updates": 390}
    early = {**student.curve[0], "updates": 104}
    runs = [
        replace(student, curve=[*student.curve[:2], near, student.curve[2]]),
        replace(student, seed=1, curve=[early, *student.curve[1:]]),
        replace(student, seed=2, curve=student.curve[:2]),  # broke off
    ]
    done = {category: "1" * 12 + "0" * 52 for category in CATEGORIES["t2i"]}
    expert = make_run("source: base", budget="none")
    runs.append(replace(expert, tasks={**expert.tasks, "t2i": done}))
    (drawing,) = curves.draw_over_updates(runs, Path())
    list(curves.draw_gap_over_updates(runs, Path()))
    panel = drawn["over-updates-t2i-edit"].axes[0]
    assert list(panel.get_lines()[0].get_xdata()) == [102, 200, 400]
    assert [line.get_ydata()[0] for line in dashed(panel)] == [100.0]
    assert "first 12" in panel.get_ylabel() and "the first 12 of each category" in drawing.note
    assert list(drawn["gap-over-updates-t2i-edit"].axes[0].get_lines()[0].get_xdata()) == [102, 200, 400]


# -- files ---------------------------------------------------------------------------------------------------
def test_a_report_is_a_function_of_its_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    runs = [run for run in main_runs((0, 1), count=8) if run.setting == "t2i-edit"]
    runs = [r for r in runs if r.arm in ("source: base", "source: edit", "offpolicy", REFERENCE)]
    runs += [
        make_run("alpha = 2", 0, "guided", (0.4,), suite="cfg", count=8, scales={2.0: (0.5,)}),
        make_run("base", 0, "guided", (0.3,), suite="cfg", count=8, scales={2.0: (0.4,)}, budget="none"),
    ]
    stale = tmp_path / "a" / "tables" / "old-t2i-edit.csv"
    stale.parent.mkdir(parents=True)
    stale.write_text("of runs that are gone")
    monkeypatch.setattr("replicate.drawing._DPI", 40)
    write_report(runs, tmp_path / "a")
    page = Page(tmp_path / "a" / "report.html")  # fails where it points outside
    monkeypatch.setattr("replicate.write.draw_all", lambda runs, folder: [])  # which takes the time
    (tmp_path / "b").mkdir()
    write_report(random.Random(0).sample(runs, len(runs)), tmp_path / "b")
    first, second = (
        {
            path.name: path.read_bytes()
            for path in [*(tmp_path / name / "tables").iterdir(), tmp_path / name / RESULTS]
        }
        for name in ("a", "b")
    )
    assert first == second
    tables = {"main-t2i-edit", "cfg-guided", "claims", "checks", "curves", "gaps"}
    tables |= {"brief-main-t2i-edit", "brief-cfg-guided", "brief-gaps-main", "brief-gaps-cfg"}
    assert set(first) == {f"{name}.{kind}" for name in tables for kind in ("md", "csv", "json")} | {RESULTS}
    figures = {path.stem for path in (tmp_path / "a" / "figures").iterdir()}
    of_setting = {
        f"{name}-t2i-edit" for name in ("main", "over-updates", "gap-over-updates", "diversity", "gap-main")
    }
    assert figures == of_setting | {"over-compute", "cfg-guided"}
    assert len(page.images) == len(figures)
    for claim in CLAIMS:
        assert claim.statement in page.text
    results = json.loads(first[RESULTS])
    assert len(results["runs"]) == len(runs)
    assert results["tables"]["main-t2i-edit"] == json.loads(first["main-t2i-edit.json"])["rows"]


def test_without_matplotlib_and_without_runs_nothing_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r"need matplotlib: pip install 'danceopd\[bench\]'"):
        write_report([make_run("joint training")], tmp_path)
    monkeypatch.setattr("replicate.write.check_matplotlib", lambda: None)
    with pytest.raises(ValueError, match="no runs to report"):
        write_report([], tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_report_says_which_runs_are_of_other_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicate.write.check_matplotlib", lambda: None)
    monkeypatch.setattr("replicate.write.draw_all", lambda runs, folder: [])
    own = [replace(run, made_by=installed()) for run in main_runs((0,), count=4)]
    assert of_other_code(own) == ""
    other = replace(own[0], made_by={"danceopd": "0.0.1", "digest": "0"})
    unknown = [replace(own[1], made_by={}, suite=suite) for suite in ("routing", "query")]  # one run
    told = of_other_code([other, *unknown, *own[2:]])
    assert told.startswith(f"Of {len(own)} runs, 1 are of other code")
    assert "and 1 of unknown code" in told and installed()["digest"] in told
    for runs, is_told in ((own, False), ([other, *own[1:]], True)):
        write_report(runs, tmp_path)
        page = Page(tmp_path / "report.html")
        assert ("of other code" in page.text) is is_told
        assert f"or fewer than {FEWEST_SEEDS} seeds" in page.text
