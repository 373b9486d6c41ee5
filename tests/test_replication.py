"""The suites compare like with like, and a run is done once, whatever stopped it. No score is judged."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import replication
from replicate import jobs, judge, pool, runs
from replicate.collect import collect
from replicate.jobs import SETTINGS, Job, Judging, Setting, annealed, between
from replicate.made_by import digest_of, installed
from replicate.records import Run, read_runs, write_runs
from replicate.suites import PAIRS, QUICK, SUITES, Size, entries
from rich.console import Console

from danceopd.flow import QUERY_LAWS
from danceopd.training import Callback, DanceOPDTrainer, Plan

TINY = Size(updates=2, prompts=1, curve=2)
TRAINING = Job(
    "local-global",
    Judging(prompts=1, curve=2, curve_prompts=1, scales=(2.0,)),
    updates=2,
    options={"num_rollout_steps": 2, "learning_rate": 1e-3},
)


@pytest.fixture(scope="module", autouse=True)
def _few_rows() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge, "GAP_ROWS", 2)
        yield


@pytest.mark.parametrize("suite", SUITES)
def test_every_suite_holds_different_rows_of_runs_that_can_be_made(suite: str, tmp_path: Path) -> None:
    rows = entries(suite, [0, 1], Size())
    places = [(row.setting, row.arm, row.budget, row.job.seed) for row in rows]
    assert len(set(places)) == len(places)
    for job in {row.job.key: row.job for row in rows if row.job.weights is None}.values():
        config = job.config(tmp_path)
        assert config.samples_per_update == 16
        assert config.max_steps == job.updates


@pytest.mark.parametrize("suite", [name for name in SUITES if name not in ("cfg", "longer", "tune")])
def test_budgets_are_equal(suite: str) -> None:
    for setting in PAIRS:
        rows = [row for row in entries(suite, [0], Size()) if row.setting == setting]
        compute = [row.job.expected_compute() for row in rows if row.budget == "compute"]
        assert max(compute) <= 1.06 * min(compute)
        assert len({row.job.updates for row in rows if row.budget == "updates"}) == 1


def test_a_method_has_the_same_data_and_start_as_the_others() -> None:
    free = {"method", "learning_rate", "max_steps", "save_every", "keep_checkpoints", "warmup_steps"}
    configs = [
        dataclasses.asdict(row.job.config(Path("unused")))
        for row in entries("main", [0], Size())
        if row.job.weights is None and row.setting == "t2i-edit"
    ]
    first, *others = [{k: v for k, v in config.items() if k not in free} for config in configs]
    assert others and all(other == first for other in others)


def test_a_job_is_named_by_all_that_it_does_and_by_nothing_else() -> None:
    assert TRAINING.key == dataclasses.replace(TRAINING).key
    changes: list[dict[str, Any]] = [{"seed": 1}, {"updates": 3}, {"shift": 3.0}, {"options": {}}]
    changes += [{"judging": Judging(prompts=2)}, {"start": {"global": 1.0}}, {"weights": {"local": 1.0}}]
    keys = {dataclasses.replace(TRAINING, **change).key for change in changes}
    assert len(keys | {TRAINING.key}) == 1 + len(changes)
    shared = {row.job.key for row in entries("query", [0], Size()) if row.arm == "low"}
    assert shared <= {row.job.key for row in entries("main", [0], Size())}


@pytest.mark.parametrize(
    ("place", "name", "value"),
    [(jobs, "BATCH", 8), (jobs, "TRAINED", 2), (judge, "GAP_ROWS", 3), (judge, "STEPS", 4)],
)
def test_a_job_is_named_by_the_numbers_that_all_jobs_share(
    place: Any, name: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = dataclasses.replace(TRAINING).key
    monkeypatch.setattr(place, name, value)
    assert TRAINING.key == before, "made once"
    assert dataclasses.replace(TRAINING).key != before


@pytest.mark.parametrize(
    ("experts", "start"),
    [
        ({"local": "local", "global": "edit"}, {"local": 1.0}),
        ({"global": "global", "local": "local"}, {"local": 1.0}),  # another order of routes
        ({"local": "local", "global": "global"}, {"local": 0.5}),
    ],
)
def test_a_job_is_named_by_its_settings_entry(
    experts: dict[str, str], start: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = dataclasses.replace(TRAINING).key
    monkeypatch.setitem(SETTINGS, "local-global", Setting("local-global", experts, start))
    assert dataclasses.replace(TRAINING).key != before


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"ema_decay": 0.9}, False),
        ({"save_every": 9}, False),
        ({"progress": True, "keep_checkpoints": 9}, True),
    ],
)
def test_a_job_is_named_by_its_config(
    changes: dict[str, Any], same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, config = dataclasses.replace(TRAINING).key, Job.config
    monkeypatch.setattr(
        Job, "config", lambda self, folder: dataclasses.replace(config(self, folder), **changes)
    )
    assert (dataclasses.replace(TRAINING).key == before) is same


def test_moments_of_a_curve_are_even(tmp_path: Path) -> None:
    job = Job("local-global", Judging(curve=3), updates=200)
    assert job.config(tmp_path).save_every == 67  # 67, 134, 200; not 66, 132, 198 and 200


@pytest.mark.parametrize(
    "options",
    [
        {"method": "danceopd"},
        {"method": {"name": "danceopd", "states": 3}},
        {"method": "diffusionopd"},
        {"method": "flowopd", "learning_rate": 1e-6},
        {"method": "offpolicy"},
        {"method": "soft"},
        {"method": "sft"},
    ],
)
def test_the_expected_compute_is_what_a_run_spends(options: dict[str, Any], tmp_path: Path) -> None:
    job = Job("local-global", Judging(), updates=2, options={"num_rollout_steps": 4, **options})
    spent: list[float] = []

    class Count(Callback):
        def on_update(self, line: Any) -> None:
            spent.append(line["forwards"] + job.compute_per_sample() * sum(line["samples"].values()))

    job.trainer(tmp_path, [Count()]).train()
    assert sum(spent) == pytest.approx(job.expected_compute(), rel=0.2)


def test_an_annealed_law_goes_from_one_to_the_other_and_changes_nothing_else() -> None:
    plan = Plan(
        seed=3,
        route_weights=(1.0, 1.0),
        route_sizes=(9, 9),
        query=QUERY_LAWS["low"],
        num_steps=8,
        drop_probability=0.0,
        slots_per_rank=400,
    )
    moving = annealed(plan, QUERY_LAWS["high"], updates=100)
    means = [np.mean([slot.states for slot in moving.step(step)]) for step in (0, 50, 99)]
    ends = [QUERY_LAWS[name].expected_forwards(8) for name in ("high", "low")]
    assert means[0] == pytest.approx(ends[0], abs=0.3) and means[2] == pytest.approx(ends[1], abs=0.3)
    assert means[0] < means[1] < means[2]
    rows = [[(slot.row, slot.noise_seed) for slot in each.step(50)] for each in (plan, moving)]
    assert rows[0] == rows[1]
    still = annealed(plan, plan.query, updates=100)
    assert still.step(7) == plan.step(7)
    half = between(QUERY_LAWS["high"], QUERY_LAWS["low"], 0.5)
    assert (half.alpha, half.beta) == (3.5, 3.5)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("replication")
    path = runs.run_job(TRAINING, out)
    return out, json.loads(path.read_text())


def test_a_result_says_all_that_tables_need(done: tuple[Path, dict[str, Any]]) -> None:
    _, result = done
    assert result["diverged"] is None and result["compute"] > 0 and result["seconds"] > 0
    assert list(result["tasks"]) == list(SETTINGS["local-global"].experts)
    assert all(digits in ("0", "1") for rows in result["tasks"].values() for digits in rows.values())
    assert result["gap"]["global"]["error"][-1] > 0.0
    assert [point["updates"] for point in result["curve"]] == [1, 2]
    assert set(result["scales"]) == {"2.0"}
    assert result["config"]["num_rollout_steps"] == 2
    assert result["made_by"] == installed()


def test_code_is_told_from_other_code_by_its_names_and_bytes(tmp_path: Path) -> None:
    files = {"a.py": "x = 1", "sub/b.py": "", "shapesworld/experts/base.safetensors": "weights"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    digests = {digest_of(tmp_path)}
    (tmp_path / "README.md").write_text("no code")
    assert {digest_of(tmp_path)} == digests
    for name, text in {**{name: f"{text} " for name, text in files.items()}, "c.py": ""}.items():
        (tmp_path / name).write_text(text)
        digests.add(digest_of(tmp_path))
    assert len(digests) == 2 + len(files)


def test_a_run_that_is_done_is_not_done_again(
    done: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _ = done
    monkeypatch.setattr(runs, "_train", lambda *_: pytest.fail("trained again"))
    assert runs.run_job(TRAINING, out) == runs.result_path(TRAINING, out)


def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(
    done: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    class Crash(Callback):
        def on_update(self, line: Any) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TRAINING.trainer(runs.result_path(TRAINING, tmp_path).parent / "training", [Crash()]).train()
    result = json.loads(runs.run_job(TRAINING, tmp_path).read_text())
    _, straight = done
    assert {k: v for k, v in result.items() if k not in ("seconds", "config")} == {
        k: v for k, v in straight.items() if k not in ("seconds", "config")
    }


def test_a_run_that_diverges_is_judged_where_it_was_last_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    describe: Callable[..., dict[str, Any]] = DanceOPDTrainer._describe_update

    def broken(self: DanceOPDTrainer, *args: Any) -> dict[str, Any]:
        line = describe(self, *args)
        steps.append(line["step"])
        return line if line["step"] < 2 else {**line, "loss": float("nan")}

    monkeypatch.setattr(DanceOPDTrainer, "_describe_update", broken)
    result = json.loads(runs.run_job(TRAINING, tmp_path).read_text())
    assert "loss became nan" in result["diverged"] and len(result["loss"]) == 1
    assert steps == [1, 2]


def test_the_command_does_what_is_missing_and_keeps_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(replication, "QUICK", TINY)

    def instead(jobs: list[Job], out: Path, workers: int, console: Console) -> list[str]:
        given = {job.key: job for job in jobs if job.weights is not None}
        for job in list(given.values())[:2]:
            runs.run_job(job, out)
        return ["a sentence"]

    monkeypatch.setattr(replication, "run_all", instead)
    arguments = ["--suite", "main", "--seeds", "1", "--quick", "--out", str(tmp_path)]
    assert replication.main(arguments) == 1
    assert "a sentence" in capsys.readouterr().out
    kept = read_runs(tmp_path / "runs.jsonl.gz")
    assert [run.arm for run in kept] == ["source: base", "source: edit"]
    assert kept == collect(entries("main", [0], TINY), tmp_path)
    write_runs(kept, tmp_path / "again.gz")
    assert (tmp_path / "again.gz").read_bytes() == (tmp_path / "runs.jsonl.gz").read_bytes()


def _as_if_done(jobs: list[Job], out: Path, *_: Any) -> list[str]:
    """In place of the runs."""
    for job in jobs:
        path = runs.result_path(job, out)
        path.parent.mkdir(parents=True, exist_ok=True)
        told = {"config": {"key": job.key}, "compute": 1.0, "seconds": 1.0, "diverged": None, "curve": []}
        told |= {name: {} for name in ("tasks", "diversity", "gap", "scales")}
        path.write_text(json.dumps({**told, "made_by": {"danceopd": "0", "digest": "another"}}))
    return []


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[Run]]]:
    """The rows of each report that commands write, whose runs are not done."""
    rows: list[list[Run]] = []
    monkeypatch.setattr(replication, "QUICK", TINY)
    monkeypatch.setattr(replication, "run_all", _as_if_done)
    monkeypatch.setattr(replication, "write_report", lambda found, out: rows.append(found))
    return rows


def test_a_smaller_command_reports_all_that_is_there(
    tmp_path: Path, reported: list[list[Run]], capsys: pytest.CaptureFixture[str]
) -> None:
    for seeds in ("3", "1"):
        assert replication.main(["--quick", "--out", str(tmp_path), "--seeds", seeds]) == 0
        assert "are of other code than what is installed" in capsys.readouterr().err
    first, second = reported
    assert {run.seed for run in second} == {0, 1, 2} and second == first == read_runs(
        tmp_path / "runs.jsonl.gz"
    )
    assert replication.main(["--quick", "--out", str(tmp_path), "--suite", "tune"]) == 0
    assert {run.suite for run in reported[-1]} > {"main", "tune"}


def test_sizes_do_not_share_a_folder(
    tmp_path: Path,
    reported: list[list[Run]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert replication.main(["--quick", "--seeds", "1"]) == 0
    assert (replication.QUICK_OUT / "runs.jsonl.gz").exists() and not replication.OUT.exists()
    capsys.readouterr()
    assert replication.main(["--seeds", "1", "--out", str(replication.QUICK_OUT)]) == 2
    assert "holds runs of the other size" in capsys.readouterr().err
    assert len(reported) == 1


def test_a_command_says_when_there_is_nothing_to_report(
    tmp_path: Path,
    reported: list[list[Run]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(replication, "run_all", lambda *_: ["a sentence"])
    (tmp_path / "report.html").write_text("older")
    assert replication.main(["--out", str(tmp_path)]) == 1
    told = capsys.readouterr()
    assert "failed: a sentence" in told.out
    assert "nothing to report" in told.err and "report.html is of other runs" in told.err
    assert not reported and not (tmp_path / "runs.jsonl.gz").exists()


def test_a_broken_result_is_named(
    tmp_path: Path, reported: list[list[Run]], capsys: pytest.CaptureFixture[str]
) -> None:
    path = runs.result_path(entries("main", [0], TINY)[0].job, tmp_path)
    path.parent.mkdir(parents=True)
    for text in ('{"tasks": ', "", "null"):
        path.write_text(text)
        with pytest.raises(runs.BrokenResultError, match="no whole result"):
            runs.read_result(entries("main", [0], TINY)[0].job, tmp_path)
    arguments = ["--quick", "--suite", "routing", "--seeds", "1", "--out", str(tmp_path)]
    assert replication.main(arguments) == 1
    error = capsys.readouterr().err
    assert f"'{path}'" in error and "remove it" in error and error.count("\n") == 1


def test_what_cannot_be_done_is_said_before_the_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(replication, "run_all", lambda *_: pytest.fail("ran"))
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert replication.main(["--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert f"--out '{out}'" in error and "name a folder" in error and error.count("\n") == 1
    for value in ("x", "0", "-1", "1.5", ""):
        with pytest.raises(SystemExit, match="2"):
            replication.main(["--seeds", value])
        *_, error = capsys.readouterr().err.splitlines()
        assert "--seeds" in error and f"'{value}' is no whole number of at least 1" in error


def test_runs_side_by_side_tell_which_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = Job("local-global", Judging(prompts=1), weights={"local": 1.0})
    bad = dataclasses.replace(good, weights={"nowhere": 1.0})
    failed = pool.run_all([good, good, bad], tmp_path, 1, Console())
    assert len(failed) == 1 and "nowhere" in failed[0] and bad.key in failed[0]
    assert runs.read_result(good, tmp_path) is not None
    assert pool.run_all([good], tmp_path, 1, Console()) == []
    assert "0 runs to do, 1 done before" in capsys.readouterr().out


def test_quick_is_small() -> None:
    compute = sum(row.job.expected_compute() for row in entries("main", [0], QUICK))
    assert compute < 150_000
