"""docs/method.md: its code runs as it is written, its settings train, and it tells of every option."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from danceopd import load_family
from danceopd.methods import METHODS
from danceopd.training import DanceOPDTrainer, RunConfig, load_run_config, read_metrics

from .pages import ROOT, blocks, read

torch.set_num_threads(1)

RUN = """
family: shapesworld
output_dir: runs/block
teachers: [{name: local, lora: local}, {name: global, lora: global}]
routes: [{teacher: local, data: local}, {teacher: global, data: global}]
max_steps: 1
batch_size: 2
gradient_accumulation_steps: 1
num_rollout_steps: 4
progress: false
"""
METHOD_BLOCKS = blocks("docs/method.md", "yaml")


@pytest.fixture(autouse=True)
def _in_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder that has the repository's configs."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)


def test_an_update_by_hand_is_that_of_the_method(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"__name__": "guide"}
    update, method, *others = blocks("docs/method.md", "python")
    exec(compile(update, "method.md", "exec"), names)
    by_hand, gradients = names["losses"], [p.grad.clone() for p in names["student"].module.parameters()]
    # The optimizer has stepped: the same student again for the same update.
    again = names["family"].student(names["opd"].StudentConfig(init={"local": 1.0, "global": 0.35}))
    names["student"].module.load_state_dict(again.module.state_dict())
    exec(compile(method, "method.md", "exec"), names)
    torch.testing.assert_close(names["result"].loss, by_hand, rtol=1e-4, atol=1e-7)
    for ours, parameter in zip(gradients, names["student"].module.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, ours, rtol=1e-3, atol=1e-3 * float(ours.abs().max()))
    assert names["result"].forwards == names["reached"].forwards == int(names["batch"].states.sum())
    capsys.readouterr()

    text, told = " ".join(read("docs/method.md").split()), ""
    for block in others:
        exec(compile(block, "method.md", "exec"), names)
        told += capsys.readouterr().out
    laws = re.findall(r"(\w+) +shift (\d)\.0: sigma (\S+), (\S+) forwards", told)
    assert [(over, shift) for over, shift, _, _ in laws] == [
        ("index", "1"), ("index", "3"), ("sigma", "1"), ("sigma", "3")
    ]  # fmt: skip
    (plain, _), (moved, stops), (_, _), (kept, later) = (law[2:] for law in laws)
    assert f"is {plain} without a shift and {moved} at shift 3" in text
    assert f"it is {plain} and {kept}" in text
    assert f"takes {later} steps in the mean instead of {stops}" in text
    assert told.splitlines()[-3:] == ["(0, 2) (3, 0)", "(0, 2) (4, 1)", "(3, 2) (0, 2)"]


@pytest.mark.parametrize("block", METHOD_BLOCKS, ids=[block.split("\n")[0] for block in METHOD_BLOCKS])
def test_a_setting_of_the_method_page_trains(block: str) -> None:
    small = block.replace("16", "2")  # groups of fewer rollouts
    run = RunConfig(**(yaml.safe_load(RUN) | yaml.safe_load(small)))
    family = load_family(run.family)
    DanceOPDTrainer(family=family, teachers=run.teachers, routes=run.routes, config=run).train()
    (line,) = read_metrics(Path("runs/block/metrics.jsonl"))
    assert line["loss"] > 0


def test_the_method_page_tells_of_every_method_and_option() -> None:
    text = read("docs/method.md")
    for name, cls in METHODS.items():
        assert f"\n## {name}\n" in text or name == "danceopd"
        assert f"[`{name}`](#" in text
        for option in dataclasses.fields(cls):
            assert re.search(rf"\b{option.name}\b", text), f"{name}: {option.name}"


def test_the_methods_are_compared_by_one_word() -> None:
    lines = re.findall(r"^    danceopd train (.*)$", read("docs/method.md"), re.MULTILINE)
    runs = [load_run_config(config, overrides) for config, *overrides in map(str.split, lines)]
    assert [run.method.name for run in runs] == ["danceopd", "diffusionopd", "soft"]
    assert len({run.output_dir for run in runs}) == len(runs)
