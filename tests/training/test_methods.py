"""Methods are compared by one word of the config; the rest of a run is the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from danceopd import load_family
from danceopd.families import Example
from danceopd.methods import METHODS, DanceOPD, FlowOPD
from danceopd.settings import ConfigError
from danceopd.training import DanceOPDTrainer, Route, Teacher, TrainConfig, load_run_config, read_metrics
from danceopd.training.config import as_mapping
from danceopd.training.metrics import histogram
from tests.training.tiny import Numbers

MakeTrainer = Callable[..., DanceOPDTrainer]


def settings_of(name: str) -> dict[str, Any]:
    # Six samples of an update make no group of 16.
    return {"method": {"name": name, "group_size": 3} if name == "flowopd" else name}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_one_word_and_resumes_to_the_bit(
    name: str, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    straight = make_trainer(output_dir=tmp_path / "straight", **settings_of(name))
    before = {key: value.detach().clone() for key, value in straight.weights.masters.items()}
    straight.train()
    make_trainer(max_steps=7, **settings_of(name)).train()
    resumed = make_trainer(**settings_of(name))
    resumed.train()
    for key, value in straight.weights.masters.items():
        assert torch.equal(value, resumed.weights.masters[key]) and not torch.equal(value, before[key])
    lines, again = (read_metrics(tmp_path / run / "metrics.jsonl") for run in ("straight", "run"))
    assert [{**line, "time": None} for line in lines] == [{**line, "time": None} for line in again]
    method = straight.method
    for line in lines:
        counts = [sum(bins["count"]) for bins in line["histograms"].values()]
        assert sum(counts) == 6 * method.num_states(4)
        assert (line["forwards"] > 0) == method.rolls_out


@pytest.mark.parametrize("name", METHODS)
def test_every_method_runs_in_the_miniature_world(name: str, tmp_path: Path) -> None:
    trainer = DanceOPDTrainer(
        family=load_family("shapesworld"),
        teachers=[Teacher("local", checkpoint="local"), Teacher("t2i")],
        routes=[Route("local", data="local"), Route("t2i", data="t2i")],
        config=TrainConfig(
            output_dir=tmp_path / "run",
            max_steps=2,
            batch_size=4,
            gradient_accumulation_steps=1,
            num_rollout_steps=3,
            progress=False,
            unedited_weight=None if name == "flowopd" else 0.5,
            method={"name": name, "group_size": 2} if name == "flowopd" else name,
        ),
    )
    assert len(trainer.teachers) == (0 if name == "sft" else 2)
    trainer.train()
    assert [line["loss"] > 0 for line in read_metrics(tmp_path / "run/metrics.jsonl")] == [True, True]


def test_options_are_read_checked_and_written_back(tmp_path: Path) -> None:
    config = TrainConfig(output_dir="x", method={"name": "danceopd", "states": 4, "weighting": "sigma"})
    assert config.method == DanceOPD(states=4, weighting="sigma")
    assert as_mapping(config)["method"] == {"name": "danceopd", "states": 4, "weighting": "sigma"}
    assert as_mapping(TrainConfig(output_dir="x", method=DanceOPD()))["method"] == "danceopd"
    assert TrainConfig(output_dir="x", method=FlowOPD(anchor="t2i")).method.other_teachers == ("t2i",)
    file = tmp_path / "run.yaml"
    file.write_text(
        "family: shapesworld\noutput_dir: x\nteachers: [{name: a}]\nroutes: [{teacher: a, data: t2i}]\n"
    )
    assert load_run_config(file, ["method=soft"]).method.name == "soft"
    for overrides in (["method.states=2"], ["method=danceopd", "method.states=2"]):
        assert load_run_config(file, overrides).method == DanceOPD(states=2)
    query = load_run_config(file, ["query=middle", "query.over=sigma", "query.stratified=true"]).query
    assert query is not None and query.stratified
    assert (query.law.alpha, query.law.beta, query.law.over) == (5.0, 5.0, "sigma")
    alone = load_run_config(file, ["query.over=sigma"]).query
    assert alone is not None and alone.law.over == "sigma"


def test_the_plan_of_a_law_over_sigma_needs_no_encoded_rows(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(query={"over": "sigma", "stratified": True})
    assert not trainer.prepared and len(trainer.plan.step(3)) == 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "dancopd"}, r"method 'dancopd' is unknown: did you mean 'danceopd'\?"),
        ({"method": 3}, "method must be a name, or a mapping with a name and options, got 3"),
        ({"method": {"states": 2}}, "method 'None' is unknown"),
        ({"method": {"name": "soft", "weights": {"a": 0.0}}}, "weights must be 0 or above and not all 0"),
        ({"method": {"name": "flowopd", "anchor_weight": 0.1}}, "anchor_weight=0.1 has no anchor to weigh"),
        ({"method": {"name": "danceopd", "states": 16}, "query": "low"}, "asks at all states: drop it"),
        ({"method": "sft", "rollout_batch_size": 2}, "rollout_batch_size is of no use to method sft"),
        ({"query": {"index": 3, "stratified": True}}, "query.stratified is of no use to one fixed state"),
        ({"query": {"index": 3, "over": "sigma"}}, "query.over is of no use to one fixed state"),
        ({"query": {"law": "low", "beta": 3.0}}, "query.law='low' gives the numbers"),
        ({"query": {"law": "lwo"}}, "query 'lwo' is unknown"),
        ({"method": {"name": "danceopd", "state": 2}}, r"unknown key 'state': did you mean 'states'\?"),
        ({"method": {"name": "soft", "weights": {"x": "1"}}}, "weights.x must be a number, got '1'"),
        (
            {"method": {"name": "danceopd", "states": 17}},
            "method.states=17 is more than num_rollout_steps=16",
        ),
        ({"method": "diffusionopd", "query": "low"}, "method diffusionopd asks at all states: drop it"),
        (
            {"method": {"name": "danceopd", "states": 2}, "query": {"stratified": True}},
            "query.stratified needs one state per rollout, but method.states=2",
        ),
        (
            {"method": {"name": "flowopd", "group_size": 16}, "batch_size": 5},
            "whole groups of group_size=16, but an update has 20",
        ),
        ({"method": "sft", "rollout_solver": "ab2"}, "rollout_solver='ab2' is of no use to method sft"),
        ({"method": "flowopd", "unedited_weight": 0.5}, "unedited_weight is of no use to method flowopd"),
    ],
)
def test_what_does_not_fit_is_one_sentence(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        TrainConfig(output_dir="x", **settings)
    assert "\n" not in str(caught.value)


def test_an_anchor_must_be_a_teacher_and_is_loaded_for_it(make_trainer: MakeTrainer) -> None:
    method = {"name": "flowopd", "group_size": 3, "anchor": "two"}
    routes = (Route("one", data="7"),)
    trainer = make_trainer(method=method, routes=routes)
    assert [teacher.name for teacher in trainer.asked] == ["one", "two"] and len(trainer.teachers) == 2
    with pytest.raises(ConfigError, match="method flowopd asks for an unknown teacher 'tow': did you mean"):
        make_trainer(method=method | {"anchor": "tow"}, routes=routes)


def test_data_alone_needs_targets_and_no_teachers(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    routes = (Route("photos", data="7"), Route("drawings", data="5"))
    trainer = make_trainer(method="sft", teachers=(), routes=routes)
    trainer.train()
    assert trainer.route_names == ["photos", "drawings"]
    monkeypatch.setattr(Numbers, "__getitem__", lambda self, row: Example(str(row)))
    with pytest.raises(ValueError, match="target"):
        make_trainer(method="offpolicy")


def test_masks_that_nobody_has_are_told(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unedited_weight is given, but no row of any route has a mask"):
        make_trainer(unedited_weight=0.5)
    for ground, allowed in (("t2i", False), ("edit", True)):
        config = TrainConfig(output_dir=tmp_path / ground, unedited_weight=0.5, progress=False)
        arguments: dict[str, Any] = {"teachers": [Teacher("a")], "routes": [Route("a", data=ground)]}
        if allowed:
            DanceOPDTrainer(family=load_family("shapesworld"), config=config, **arguments)
        else:
            with pytest.raises(ValueError, match="has a mask"):
                DanceOPDTrainer(family=load_family("shapesworld"), config=config, **arguments)


def test_the_histogram_counts_states_and_adds_up_errors() -> None:
    bins = histogram([0.0, 0.05, 0.5, 0.999, 1.0], [1.0, 2.0, 4.0, 8.0, 16.0])
    assert bins["count"] == [2, 0, 0, 0, 0, 1, 0, 0, 0, 2]
    assert bins["error"] == [3.0, 0, 0, 0, 0, 4.0, 0, 0, 0, 24.0]
