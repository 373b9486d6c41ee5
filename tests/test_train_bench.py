"""The training benchmark runs, and notices a case that does other work. No time is judged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import train_bench
from trainbench import measure, worlds
from trainbench.ladder import Case, ladder
from trainbench.worlds import Work, World, flux2, sd3, shapesworld

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def world() -> World:
    return shapesworld(CPU, 3)


def small_ladder(width: int, micro: int, *, compiled: bool = False) -> list[Case]:
    """Cases that between them use every idea."""
    everything = ladder(width, micro, compiled=compiled)
    wanted = {
        "published",
        "early stop",
        "all together",
        f"width {width}, refilled",
        f"width {width}, shrinking",
        "blocks compiled",
    }
    return [case for case in everything if case.name in wanted]


def test_all_cases_do_the_work_of_the_published_recipe(world: World) -> None:
    cases = ladder(2, 0)
    assert len({case.name for case in cases}) == len(cases)
    assert {case.against for case in cases} <= {case.name for case in cases}
    apart = measure.check_same_work(cases, world, world.work(0, 4), 1e-4)
    assert apart.keys() == {case.name for case in cases}


@pytest.mark.parametrize("build", [sd3, flux2])
def test_the_pretrained_families_do_the_same_work_both_ways(build: Callable[..., World]) -> None:
    world = build(CPU, 2)
    measure.check_same_work(small_ladder(2, 0), world, world.work(0, 3), 1e-4)


def test_what_compiles_does_so_before_it_is_timed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[object] = []
    monkeypatch.setattr(worlds, "compile_blocks", compiled.extend)
    cases = [case for case in small_ladder(2, 0, compiled=True) if case.name.startswith(("all", "blocks"))]
    assert [case.is_compiled for case in cases] == [False, True]
    measure.compile_seconds(cases[:1], world, [world.work(0, 3)])
    assert not compiled
    measure.compile_seconds(cases, world, [world.work(0, 3)])
    assert compiled == [cases[1].fields(world).student] != [cases[0].fields(world).student]


def test_other_work_is_noticed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = small_ladder(2, 0)
    run = Case.run

    def one_step_further(self: Case, world: World, work: Work) -> tuple[torch.Tensor, torch.Tensor]:
        if self.recipe is not None:
            work = work._replace(states=[min(state + 1, 2) for state in work.states])
        return run(self, world, work)

    monkeypatch.setattr(Case, "run", one_step_further)
    work = world.work(0, 4)._replace(states=[0, 1, 1, 0])
    with pytest.raises(measure.DifferentWork, match=r"'early stop' on ShapesWorld differs .* in states"):
        measure.check_same_work(cases, world, work, 1e-4)


def test_the_quick_run_prints_and_stores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train_bench, "ladder", small_ladder)
    path = tmp_path / "train.json"
    arguments = ["--quick", "--samples", "3", "--steps", "2", "--width", "2", "--out", str(path)]
    monkeypatch.setattr("sys.argv", ["train_bench.py", *arguments])
    train_bench.main()
    report = json.loads(path.read_text())
    (result,) = report["worlds"]
    lines = {line["name"]: line for line in result["cases"]}
    assert lines["published"]["speedup"] == 1.0
    assert lines["all together"]["weights_bytes"] < 0.5 * lines["published"]["weights_bytes"]
    assert path.with_suffix(".md").read_text() in capsys.readouterr().out + "\n"
