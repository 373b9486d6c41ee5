from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import danceopd.training.trainer as trainer_module
from danceopd.flow import QUERY_LAWS
from danceopd.training import ConfigError, DanceOPDTrainer, DivergedError, Route, Teacher, read_metrics
from tests.training.conftest import ROUTES, TEACHERS
from tests.training.runs import put_in_place
from tests.training.tiny import TinyFamily

MakeTrainer = Callable[..., DanceOPDTrainer]


def comparable(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a run without what depends on the clock."""
    return [
        {key: value for key, value in line.items() if key != "time"}
        for line in read_metrics(folder / "metrics.jsonl")
    ]


def test_a_run_learns_and_leaves_student_config_metrics_and_checkpoints(make_trainer: MakeTrainer) -> None:
    result = make_trainer(max_steps=60, save_every=25).train()
    folder = result.output_dir
    assert (result.step, result.stopped_by) == (60, None)
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoints",
        "config.yaml",
        "metrics.jsonl",
        "provenance.json",
        "report.html",
        "student.safetensors",
    ]
    assert [path.name for path in sorted((folder / "checkpoints").iterdir())] == [
        "step-00000050",
        "step-00000060",
    ]
    losses = [line["loss"] for line in read_metrics(folder / "metrics.jsonl")]
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])
    checkpoint = load_file(folder / "checkpoints" / "step-00000060" / "student.safetensors")
    exported = load_file(folder / "student.safetensors")
    assert all(torch.equal(exported[name], weight) for name, weight in checkpoint.items())


def test_each_line_of_the_metrics_tells_the_update(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = make_trainer()
    trainer.train()
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 13))
    for step, line in enumerate(lines):
        slots = trainer.plan.step(step)
        counts = {
            name: sum(slot.route == route for slot in slots) for route, name in enumerate(["one", "two"])
        }
        assert line["samples"] == {name: count for name, count in counts.items() if count}
        weighted = sum(line["losses"][name] * count for name, count in line["samples"].items())
        assert line["loss"] == pytest.approx(weighted / 6)
        assert line["forwards"] == sum(slot.states[-1] for slot in slots)
        assert line["sigma"] == pytest.approx(sum(1 - slot.states[-1] / 4 for slot in slots) / 6)
        assert line["learning_rate"] == 1e-2
        assert line["grad_norm"] > 0
        assert line["time"]["samples_per_second"] == pytest.approx(6 / line["time"]["seconds"])


def test_log_every_thins_the_metrics_out(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    make_trainer(log_every=5).train()
    assert [line["step"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")] == [5, 10]


def test_a_teacher_that_is_the_student_gives_exactly_no_loss(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    trainer = make_trainer(teachers=[Teacher("self")], routes=[Route("self", data="4")], max_steps=3)
    before = {name: value.detach().clone() for name, value in trainer.weights.masters.items()}
    trainer.train()
    assert [line["loss"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")] == [0.0, 0.0, 0.0]
    assert all(torch.equal(value, before[name]) for name, value in trainer.weights.masters.items())


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    make_trainer(output_dir=tmp_path / "a").train()
    torch.manual_seed(2)
    make_trainer(output_dir=tmp_path / "b").train()
    make_trainer(output_dir=tmp_path / "c", seed=1).train()
    assert comparable(tmp_path / "a") == comparable(tmp_path / "b") != comparable(tmp_path / "c")
    for file in ("student", *(f"checkpoints/step-00000012/{part}" for part in ("student", "optimizer"))):
        one, other = (tmp_path / run / f"{file}.safetensors" for run in "ab")
        assert one.read_bytes() == other.read_bytes()


def test_training_leaves_torchs_generator_alone(make_trainer: MakeTrainer) -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    make_trainer(max_steps=2).train()
    assert torch.equal(torch.rand(1), expected)


def test_accumulated_passes_are_one_large_batch(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    make_trainer(output_dir=tmp_path / "one", batch_size=6, gradient_accumulation_steps=1).train()
    make_trainer(output_dir=tmp_path / "six", batch_size=1, gradient_accumulation_steps=6).train()
    make_trainer(
        output_dir=tmp_path / "two", batch_size=6, gradient_accumulation_steps=1, rollout_batch_size=2
    ).train()
    expected = load_file(tmp_path / "one/student.safetensors")
    for name in ("six", "two"):
        for key, weight in load_file(tmp_path / name / "student.safetensors").items():
            torch.testing.assert_close(weight, expected[key], rtol=1e-4, atol=1e-5)


def test_routes_that_share_a_teacher_are_told_apart_in_the_metrics(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    routes = [Route("one", data="3"), Route("one", data="4"), Route("two", data="5")]
    trainer = make_trainer(routes=routes)
    assert (len(trainer.teachers), trainer.teacher_of_route) == (2, [0, 0, 1])
    trainer.train()
    names = {name for line in read_metrics(tmp_path / "run" / "metrics.jsonl") for name in line["losses"]}
    assert names == {"one", "one#2", "two"}


def test_a_teacher_without_a_route_is_not_loaded(make_trainer: MakeTrainer) -> None:
    unused = Teacher("unused", checkpoint="/nowhere/at/all")
    assert len(make_trainer(teachers=[unused, *TEACHERS]).teachers) == 2


def test_dropped_conditions_change_what_the_student_sees(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    make_trainer(output_dir=tmp_path / "kept").train()
    make_trainer(output_dir=tmp_path / "dropped", drop_condition=1.0).train()
    trainer = make_trainer(output_dir=tmp_path / "half", drop_condition=0.5)
    slots = trainer.plan.step(0)
    trainer.prepare()
    (part,) = trainer_module.build_batches(
        slots, trainer.family, trainer.prepared, trainer.teacher_of_route, trainer.plan.num_steps
    )
    batch = part.batch
    zero = (batch.condition.embedding == 0).all(dim=1).tolist()  # type: ignore[attr-defined]
    assert zero == [slot.drop for slot in slots]
    assert comparable(tmp_path / "kept")[0]["loss"] != comparable(tmp_path / "dropped")[0]["loss"]


def test_student_guidance_trains_the_guided_field(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    teachers = [Teacher("guided", guidance_scale=3.0)]
    make_trainer(
        teachers=teachers, routes=[Route("guided", data="4")], student_guidance_scale=3.0, max_steps=2
    ).train()
    assert [line["loss"] for line in comparable(tmp_path / "run")] == pytest.approx([0.0, 0.0], abs=1e-12)


def test_a_bf16_student_keeps_fp32_masters_and_learns(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = make_trainer(dtype=torch.bfloat16, max_steps=40)
    trainer.train()
    assert {value.dtype for value in trainer.weights.masters.values()} == {torch.float32}
    assert {value.dtype for value in trainer.student.module.parameters()} == {torch.bfloat16}
    losses = [line["loss"] for line in comparable(tmp_path / "run")]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


def test_the_running_mean_is_exported(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = make_trainer(ema_decay=0.9)
    trainer.train()
    assert trainer.mean is not None
    for name, weight in load_file(tmp_path / "run" / "student.safetensors").items():
        assert torch.equal(weight, trainer.mean.mean[name])
        assert not torch.equal(weight, trainer.weights.masters[name])


def test_a_loss_that_is_not_finite_ends_the_run_and_loses_nothing(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    trainer = make_trainer()
    good, calls = trainer.teachers[0], []

    def breaking(sample: torch.Tensor, sigma: torch.Tensor, condition: Any) -> torch.Tensor:
        calls.append(trainer.step)
        return good(sample, sigma, condition) * (float("nan") if trainer.step == 7 else 1.0)

    put_in_place(trainer, 0, breaking)
    with pytest.raises(DivergedError) as caught:
        trainer.train()
    text = str(caught.value)
    assert (
        "loss became nan in update 8 on route 'one'" in text
        and "learning_rate lower than 0.01" in text
        and "\n" not in text
    )
    checkpoints = sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir())
    assert checkpoints == ["step-00000005", "step-00000007"]
    assert len(comparable(tmp_path / "run")) == 7

    make_trainer(output_dir=tmp_path / "whole").train()
    assert make_trainer().train().step == 12
    assert comparable(tmp_path / "run") == comparable(tmp_path / "whole")


def test_a_loss_that_is_not_finite_at_once_saves_nothing(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = make_trainer(teachers=[Teacher("bad", checkpoint="nan")], routes=[Route("bad", data="4")])
    with pytest.raises(DivergedError, match="update 1 on route 'bad': no update was made yet"):
        trainer.train()
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_the_law_of_the_config_is_the_one_that_draws(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    make_trainer(query={"index": 3}, max_steps=2).train()
    assert [line["sigma"] for line in comparable(tmp_path / "run")] == [0.25, 0.25]
    assert [line["forwards"] for line in comparable(tmp_path / "run")] == [18, 18]
    high = make_trainer(output_dir=tmp_path / "high", query="high")
    assert high.plan.query == QUERY_LAWS["high"]


def test_the_config_that_is_kept_describes_the_run(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    from danceopd.training import load_run_config

    make_trainer(max_steps=1).train()
    kept = load_run_config(tmp_path / "run" / "config.yaml")
    assert (kept.family, kept.device, kept.dtype, kept.max_steps) == ("tiny", "cpu", "float32", 1)
    assert (tuple(kept.teachers), tuple(kept.routes)) == (TEACHERS, ROUTES)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"routes": [Route("three", data="4")]}, r"unknown teacher 'three': known are one, two"),
        ({"teachers": [TEACHERS[0], TEACHERS[0]]}, "2 teachers are named 'one'"),
        ({"routes": []}, "routes is empty"),
        ({"routes": [Route("one", data="0")]}, "data '0' of route 'one' has no rows"),
        ({"routes": [Route("one", data="missing.csv")]}, "'missing.csv'"),
        ({"output_dir": "/proc/none/run"}, "output_dir '/proc/none/run' cannot be written"),
        ({"dtype": torch.float16}, "float32 or bfloat16"),
    ],
)
def test_settings_that_do_not_fit_are_told_before_anything_is_written(
    make_trainer: MakeTrainer, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        make_trainer(**changes).train()
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_the_folder_should_be_is_told_and_kept(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(ConfigError, match="is a file"):
        make_trainer()
    with pytest.raises(ConfigError, match="is a file"):
        make_trainer(output_dir=tmp_path / "run" / "below")
    assert (tmp_path / "run").read_text() == "mine"


def test_an_export_is_whole_or_the_one_before(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    make_trainer().train()
    before = (tmp_path / "run/student.safetensors").read_bytes()
    trainer = make_trainer(max_steps=14)

    def failing(directory: Path, parameters: object) -> Path:
        (directory / "student.safetensors").write_text("half")
        raise OSError("disk is gone")

    object.__setattr__(trainer.student, "export", failing)
    with pytest.raises(OSError, match="disk is gone"):
        trainer.train()
    assert (tmp_path / "run/student.safetensors").read_bytes() == before
    make_trainer(max_steps=14).train()
    assert (tmp_path / "run/student.safetensors").read_bytes() != before
    assert not list((tmp_path / "run").glob(".*"))


def test_metrics_are_plain_json_lines(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    make_trainer(max_steps=2).train()
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        assert isinstance(json.loads(line, parse_constant=lambda name: pytest.fail(name)), dict)


def test_family_data_type_is_checked_by_the_family() -> None:
    assert TinyFamily().data("3")[2].prompt == "2"
