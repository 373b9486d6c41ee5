from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from danceopd.shapesworld import EXPERTS, ShapesWorldFamily, TaskSet, train_experts
from danceopd.shapesworld.experts import read_weights
from danceopd.shapesworld.lora import read_lora
from danceopd.shapesworld.model import build_model
from danceopd.shapesworld.train_experts import (
    RECIPES,
    ExpertRun,
    Recipe,
    flow_matching_loss,
    learning_rate,
    main,
    train,
)

TINY_LORA = Recipe(("style-change",), init="base", cycles=(6,), batch_size=2, warmup=2, decay=0.5, rank=2)
TINY = Recipe(("single", "position"), init=None, cycles=(6,), batch_size=2, warmup=2, decay=0.5)


def interrupt_after(updates: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pull the plug when the next update begins."""
    honest = ExpertRun.step

    def step(run: ExpertRun) -> float:
        if run.update == updates:
            raise KeyboardInterrupt
        return honest(run)

    monkeypatch.setattr(ExpertRun, "step", step)


def same_bits(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        torch.equal(value, right[name]) for name, value in left.items()
    )


@pytest.fixture
def folder(tmp_path: Path, random_experts: Path) -> Path:
    """A folder with a base to start from."""
    shutil.copy(random_experts / "base.safetensors", tmp_path)
    return tmp_path


@pytest.mark.parametrize(("name", "recipe"), [("base", TINY), ("global", TINY_LORA)])
@pytest.mark.parametrize("stopped", [3, 4])
def test_a_stopped_run_goes_on_to_the_same_bits(
    name: str, recipe: Recipe, stopped: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    halves = folder / "halves"
    halves.mkdir()
    if recipe.init:
        shutil.copy(folder / "base.safetensors", halves)
    whole = train(name, recipe, folder, save_every=3)
    with monkeypatch.context() as patch:
        interrupt_after(stopped, patch)
        with pytest.raises(KeyboardInterrupt):
            train(name, recipe, halves, save_every=3)
    assert not (halves / f"{name}.safetensors").exists()
    assert same_bits(load_file(train(name, recipe, halves, save_every=3)), load_file(whole))
    left, right = (torch.load(f / f"{name}.resume.pt", weights_only=True) for f in (folder, halves))
    assert same_bits(left["trained"], right["trained"])
    assert same_bits(left["average"], right["average"])


def test_an_expert_is_the_running_mean_in_bfloat16(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = train("base", TINY, tmp_path, seed=3)
    expert = load_file(path)
    state = torch.load(tmp_path / "base.resume.pt", weights_only=True)
    assert expert.keys() == build_model().state_dict().keys()
    assert same_bits(expert, {name: mean.to(torch.bfloat16) for name, mean in state["average"].items()})
    assert not same_bits(state["average"], state["trained"])
    about = read_weights(str(path)).metadata
    assert int(about.pop("seconds")) >= 0
    assert about == {"kind": "full", "expert": "base", "seed": "3", "updates": "6"}
    (line,) = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (line["expert"], line["update"]) == ("base", 6)
    assert line["loss"] > 0


def test_an_edit_expert_is_a_lora_on_the_base_beside_it(folder: Path) -> None:
    base = (folder / "base.safetensors").read_bytes()
    path = train("global", TINY_LORA, folder)
    weights = read_weights(str(path))
    assert weights.is_lora
    assert {key: weights.metadata[key] for key in ("kind", "expert", "base", "updates")} == {
        "kind": "lora",
        "expert": "global",
        "base": "base.safetensors",
        "updates": "6",
    }
    lora = read_lora(weights, build_model())
    assert (lora.rank, lora.alpha) == (2, 2.0)
    assert all(b.abs().sum() > 0 for _, b in lora.factors.values())
    assert (folder / "base.safetensors").read_bytes() == base
    family = ShapesWorldFamily()
    merged, start = (family.full_model(str(file)) for file in (path, folder / "base.safetensors"))
    assert not same_bits(merged.state_dict(), start.state_dict())


def test_the_mean_is_even_at_first(tmp_path: Path) -> None:
    """Its memory is the whole run until that is longer than 1 / (1 - ema)."""
    run = ExpertRun("base", TINY, tmp_path)
    seen = [run.trained["proj_out.weight"].detach().clone()]
    for _ in range(3):
        run.step()
        seen.append(run.trained["proj_out.weight"].detach().clone())
    torch.testing.assert_close(run.average["proj_out.weight"], torch.stack(seen).mean(0))


def test_finished_runs_stay_finished(tmp_path: Path) -> None:
    first = load_file(train("base", TINY, tmp_path))
    assert same_bits(load_file(train("base", TINY, tmp_path)), first)


def test_seeds_draw_other_rows_noise_and_weights(tmp_path: Path) -> None:
    model, rows = build_model(), TaskSet(TINY.categories)
    losses = [flow_matching_loss(model, TINY, rows, place).item() for place in (0, 1, 1_000_000)]
    assert len(set(losses)) == 3
    runs = [ExpertRun("base", TINY, tmp_path, seed=seed) for seed in (0, 1)]
    assert not same_bits(runs[0].trained, runs[1].trained)
    runs[1].model.load_state_dict(runs[0].model.state_dict())
    assert runs[0].step() != runs[1].step()


def test_the_loss_falls(tmp_path: Path) -> None:
    run = ExpertRun("base", replace(TINY, cycles=(60,), batch_size=8), tmp_path)
    losses = [run.step() for _ in range(40)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_the_learning_rate_rises_stays_and_falls() -> None:
    recipe = Recipe(("single",), None, cycles=(100,), learning_rate=1.0, warmup=10, decay=0.3)
    rates = [learning_rate(recipe, update) for update in range(100)]
    assert rates[:10] == pytest.approx([0.1 * update for update in range(1, 11)])
    assert set(rates[10:71]) == {1.0}
    assert rates[70:] == sorted(rates[70:], reverse=True)
    assert rates[-1] == pytest.approx(1 / 30)


def test_every_cycle_has_its_own_rise_and_fall() -> None:
    one = Recipe(("single",), None, cycles=(100,), learning_rate=1.0, warmup=10, decay=0.3)
    two = replace(one, cycles=(100, 50))
    assert two.updates == 150
    assert [learning_rate(two, u) for u in range(100)] == [learning_rate(one, u) for u in range(100)]
    last = replace(one, cycles=(50,))
    assert [learning_rate(two, 100 + u) for u in range(50)] == [learning_rate(last, u) for u in range(50)]
    with pytest.raises(ValueError, match=r"update must be in 0\.\.149, but got 150"):
        learning_rate(two, 150)


def test_there_is_a_recipe_per_shipped_expert() -> None:
    assert tuple(RECIPES) == EXPERTS
    assert all(recipe.init in (None, "base") for recipe in RECIPES.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bose"], "expert 'bose' is unknown; choose from base, local, global, edit."),
        (["base", "--seed", "-1"], "--seed must be in 0..999, but got -1."),
        (["local"], "base.safetensors is not there, and this expert starts from it; train 'base' first."),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--out", str(tmp_path)])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_the_command_trains_what_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[Any, ...]] = []
    monkeypatch.setattr(train_experts, "train", lambda *arguments, **named: made.append((*arguments, named)))
    main(["local", "base", "--out", str(tmp_path), "--seed", "4"])
    assert made == [
        ("local", RECIPES["local"], tmp_path, {"seed": 4}),
        ("base", RECIPES["base"], tmp_path, {"seed": 4}),
    ]
    made.clear()
    main(["--out", str(tmp_path)])
    assert [name for name, *_ in made] == list(EXPERTS)


def test_a_run_of_another_recipe_or_a_damaged_one_is_not_continued(tmp_path: Path) -> None:
    run = ExpertRun("base", TINY, tmp_path)
    run.save()
    for other, seed in ((replace(TINY, batch_size=3), 0), (TINY, 1)):
        with pytest.raises(ValueError, match=r"base\.resume\.pt is of another recipe or seed; remove"):
            ExpertRun("base", other, tmp_path, seed=seed)
    content = run.resume_file.read_bytes()
    for damaged in (b"", b"nonsense", content[: len(content) // 2]):
        run.resume_file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"base\.resume\.pt cannot be read; remove"):
            ExpertRun("base", TINY, tmp_path)
