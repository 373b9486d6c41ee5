"""Runs whose frozen models are spread over two processes, beside the same runs by one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from danceopd.families import StudentConfig, Teacher, load_family
from danceopd.families.pretrained import PretrainedFamily
from danceopd.training import ConfigError, DanceOPDTrainer, Route, RunConfig, check_run, list_checkpoints
from tests.families import tiny
from tests.families.parity import folder_of
from tests.families.test_training import make_run, metrics, trainer_of
from tests.families.tiny.calls import picture, small_sources
from tests.families.tiny.processors import without_torchvision
from tests.training.processes import Outcome, in_processes
from tests.training.processes import make_trainer as make_tiny_trainer

torch.set_num_threads(1)

KIND = "z-image-omni"  # its edits run blocks that its other rows pass over


def configs(folder: Path) -> dict[str, RunConfig]:
    """A run of each kind, for one process."""
    other = tiny.save(KIND, folder / "other", seed=5)
    picture(7, (64, 64)).save(folder / "target.png")
    rows = [{"prompt": f"a fox {n}", "target": "target.png", "height": 64, "width": 64} for n in range(3)]
    (folder / "targets.jsonl").write_text("\n".join(map(json.dumps, rows)))
    usual = make_run(KIND, folder, save_every=1, keep_checkpoints=9, cache_dir=str(folder / "cache"))
    teachers = [*usual.teachers, Teacher("other", checkpoint=str(other))]
    routes = [*usual.routes, Route("other", data=usual.routes[1].data)]

    def run(name: str, **settings: Any) -> RunConfig:
        return dataclasses.replace(usual, output_dir=folder / name, **settings)

    return {
        "danceopd": run("danceopd", teachers=teachers, routes=routes, ema_decay=0.9),
        "diffusionopd": run(
            "diffusionopd",
            method="diffusionopd",
            query=None,
            max_steps=2,
            num_rollout_steps=2,
            student=StudentConfig(rank=4, gradient_checkpointing=True),
        ),
        "flowopd": run(
            "flowopd",
            method={"name": "flowopd", "group_size": 3, "anchor": "guided", "clip_range": 0.5},
            query=None,
            max_steps=2,
            num_rollout_steps=2,
        ),
        "sft": run(
            "sft", method="sft", routes=[Route("one", data=str(folder / "targets.jsonl"))], max_steps=2
        ),
    }


def spread(config: RunConfig, name: str, **settings: Any) -> RunConfig:
    """The same for two processes, in another folder."""
    folder = Path(config.output_dir).with_name(name)
    return dataclasses.replace(
        config, output_dir=folder, gradient_accumulation_steps=1, sharding="fsdp", **settings
    )


def train_alone(config: RunConfig) -> None:
    with small_sources(), without_torchvision():
        assert trainer_of(config).train().step == config.max_steps


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sharding")


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, RunConfig]:
    """The runs, done by one process."""
    runs = configs(folder)
    for config in runs.values():
        train_alone(config)
    half = dataclasses.replace(runs["danceopd"], output_dir=folder / "continued", max_steps=1)
    train_alone(half)
    return runs


@pytest.fixture(scope="module")
def shared(folder: Path, alone: dict[str, RunConfig]) -> list[Outcome]:
    """What two processes found, which did the runs again."""
    outcomes = in_processes(folder, _runs, runs=alone)
    assert [outcome.text for outcome in outcomes] == ["", ""]
    return outcomes


def _runs(rank: int, *, runs: dict[str, RunConfig]) -> dict[str, Any]:
    with small_sources(), without_torchvision():
        return _found(rank, runs)


def _found(rank: int, runs: dict[str, RunConfig]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    pictures = {"every": 2, "prompts": ["a fox"], "num_steps": 2}
    checked = check_run(spread(runs["danceopd"], "spread-danceopd", validation=pictures), resume=None)
    checked.trainer.train()
    found["bytes"] = [_bytes(model) for model in _models(checked.trainer)]
    found["loaded"] = checked.report.estimate.memory.base
    trainer_of(spread(runs["diffusionopd"], "spread-diffusionopd", rollout_batch_size="auto")).train()
    for name in ("flowopd", "sft"):
        trainer_of(spread(runs[name], f"spread-{name}")).train()
    trainer_of(spread(runs["danceopd"], "continued")).train()
    found["errors"] = [
        _error_of(spread(runs["diffusionopd"], f"fails-{name}", save_every=100), act if rank == 1 else None)
        for name, act in {
            "way": _fail,
            "back": _fail_backward,
            "mixture": _mix,
            "lending": _fail_lent,
        }.items()
    ]
    refused: dict[str, dict[str, Any]] = {
        "full": {"student": StudentConfig(kind="full")},
        "offload": {"teachers": _with(runs["danceopd"], offload=True)},
        "int8": {"teachers": _with(runs["danceopd"], quantization="int8")},
    }
    found["refused"] = [
        _error_of(spread(runs["danceopd"], name, **settings), None) for name, settings in refused.items()
    ]
    try:
        make_tiny_trainer(Path(runs["danceopd"].output_dir) / "tiny", sharding="fsdp")
    except ConfigError as error:
        found["refused"].append(str(error))
    return found


def _with(config: RunConfig, **settings: Any) -> list[Teacher]:
    *others, last = config.teachers
    return [*others, dataclasses.replace(last, **settings)]


def _models(trainer: DanceOPDTrainer) -> list[nn.Module]:
    assert isinstance(trainer.family, PretrainedFamily)
    return [trainer.family.base, *trainer.family._others.values()]


def _bytes(model: nn.Module) -> tuple[int, int]:
    """Of a model's frozen weights, all and those on this rank."""
    frozen: dict[str, Any] = {name: p for name, p in model.named_parameters() if ".lora_" not in name}
    whole = sum(value.numel() * value.itemsize for value in frozen.values())
    return whole, sum(value.to_local().untyped_storage().nbytes() for value in frozen.values())


def _error_of(config: RunConfig, act: Callable[[DanceOPDTrainer], None] | None) -> str:
    try:
        trainer = trainer_of(config)
        if act is not None:
            act(trainer)
        trainer.train()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _fail(trainer: DanceOPDTrainer) -> None:
    def fail(*_: Any) -> None:
        if trainer.step == 1:
            raise ValueError("the block has left")

    trainer.student.module.get_submodule("layers.0").register_forward_hook(fail)


def _fail_backward(trainer: DanceOPDTrainer) -> None:
    def fail(gradient: Tensor) -> None:
        if trainer.step == 1:
            raise ValueError("the gradient has left")

    def watch(module: nn.Module, _: Any, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(fail)

    trainer.student.module.get_submodule("layers.0").register_forward_hook(watch)


def _mix(trainer: DanceOPDTrainer) -> None:
    for value in trainer.student.module.get_submodule("layers.1").parameters():
        if hasattr(value, "to_local"):
            value.to_local().mul_(2)


def _fail_lent(trainer: DanceOPDTrainer) -> None:
    """Where the other rank may still compute: after this one's last pass of the update."""
    gradient = trainer._gradient

    def fail(slots: Any) -> Any:
        result = gradient(slots)
        if trainer.step == 1:
            raise ValueError("the result has left")
        return result

    trainer._gradient = fail  # type: ignore[method-assign]


def tensors(run: Path, step: int) -> dict[str, Tensor]:
    folder = run / f"checkpoints/step-{step:08d}"
    return {f"{p.stem}.{name}": t for p in folder.glob("*.safetensors") for name, t in load_file(p).items()}


def assert_same(one: Path, other: Path, step: int) -> None:
    first, second = tensors(one, step), tensors(other, step)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        # Adam makes a whole step, of 1e-3, of a gradient that is rounding alone.
        assert torch.allclose(second[name], tensor, rtol=1e-3, atol=5e-5), name


@pytest.mark.parametrize("method", ["danceopd", "diffusionopd", "flowopd", "sft"])
def test_a_spread_run_is_that_of_one_process(
    method: str, folder: Path, alone: dict[str, RunConfig], shared: list[Outcome]
) -> None:
    run, other = folder / method, folder / f"spread-{method}"
    for one, two in zip(metrics(run), metrics(other), strict=True):
        assert (two["loss"], two["grad_norm"]) == pytest.approx((one["loss"], one["grad_norm"]), rel=1e-4)
        assert one["samples"] == two["samples"]
    assert_same(run, other, alone[method].max_steps)
    file = "pytorch_lora_weights.safetensors"
    assert load_file(run / file).keys() == load_file(other / file).keys()
    grids = sorted(path.name for path in (other / "grids").glob("step-*.png"))
    drawn = [0, 2, 3] if method == "danceopd" else []  # rank 0 draws them alone
    assert grids == [f"step-{step:08d}.png" for step in drawn]


def test_a_run_goes_on_spread_and_as_one_again(
    folder: Path, alone: dict[str, RunConfig], shared: list[Outcome]
) -> None:
    assert_same(folder / "danceopd", folder / "continued", 3)  # whose first update one process did
    spread_run = folder / "spread-danceopd"
    for checkpoint in list_checkpoints(spread_run / "checkpoints")[2:]:
        for file in checkpoint.iterdir():
            file.unlink()
        checkpoint.rmdir()
    again = dataclasses.replace(alone["danceopd"], output_dir=spread_run)
    train_alone(again)
    assert_same(folder / "danceopd", spread_run, 3)


def test_each_process_holds_its_share_of_every_frozen_model(shared: list[Outcome]) -> None:
    for outcome in shared:
        assert len(outcome.result["bytes"]) == 2
        for whole, here in outcome.result["bytes"]:
            assert here < 0.52 * whole
        assert outcome.result["loaded"] < 0.52 * outcome.result["bytes"][0][0]


def test_an_error_on_one_process_ends_all_with_its_message(shared: list[Outcome]) -> None:
    first, second = (outcome.result["errors"] for outcome in shared)
    told = ["the block has left", "the gradient has left", "", "the result has left"]
    for place, text in enumerate(told):
        if text:
            assert second[place] == f"ValueError: {text}"
            assert first[place] == f"RankError: rank 1 of 2 has failed, so all end: ValueError: {text}"


def test_a_mixture_of_weights_is_noticed(folder: Path, shared: list[Outcome]) -> None:
    first, second = (outcome.result["errors"][2] for outcome in shared)
    assert "the weights gathered from the ranks are not the model's" in first
    assert "the weights gathered from the ranks are not the model's" in second
    assert not list_checkpoints(folder / "fails-mixture" / "checkpoints")


def test_what_cannot_be_spread_is_refused(
    alone: dict[str, RunConfig], shared: list[Outcome], tmp_path: Path
) -> None:
    told = [
        "spreads frozen weights alone, but student.kind is 'full'",
        "teacher 'other' has offload=True: drop that",
        "teacher 'other' has quantization='int8': drop that",
        "sharding='fsdp' is not for family 'tiny'",
    ]
    for outcome in shared:
        for text, wanted in zip(outcome.result["refused"], told, strict=True):
            assert wanted in text
    with pytest.raises(ConfigError, match="spreads weights over processes, but there is one"):
        trainer_of(dataclasses.replace(alone["sft"], output_dir=tmp_path / "run", sharding="fsdp"))


def test_a_base_that_is_on_the_device_is_not_spread() -> None:
    family = load_family(folder_of(KIND))
    assert isinstance(family, PretrainedFamily) and family.base is not None
    with pytest.raises(ValueError, match="base is on its device already"), family.placed_by(Mock()):
        pass
