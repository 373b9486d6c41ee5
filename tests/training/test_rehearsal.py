"""The width of a rollout that is chosen to fit the memory, and kept for the rest of the run."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from danceopd.signals import Interrupted
from danceopd.training import ConfigError, DanceOPDTrainer, TrainConfig, load_checkpoint, rehearsal
from danceopd.training.measuring import peak_bytes
from danceopd.training.rehearsal import Rehearsal, width_that_fits
from tests.training.runs import MakeTrainer, bits
from tests.training.tiny import TinyCondition


def set_free(monkeypatch: pytest.MonkeyPatch, memory: int) -> None:
    monkeypatch.setattr(rehearsal, "free_memory", lambda device: memory)


def rehearsal_of(trainer: DanceOPDTrainer) -> Rehearsal:
    trainer.prepare()
    return Rehearsal(trainer.family, trainer.prepared, trainer.teacher_of_route, trainer.plan, trainer.config)


@pytest.mark.parametrize(
    ("room", "one", "two", "width"),
    [
        (100, 10, 20, 10),
        (100, 30, 40, 8),
        (100, 20, 20, 81),
        (5, 10, 20, 0),
        (-50, 10, 20, -5),
        (100, 10, 35, 4),
    ],
)
def test_a_line_through_two_forwards_gives_the_width(room: int, one: int, two: int, width: int) -> None:
    assert width_that_fits(room, one, two) == width


def test_the_width_found_takes_the_memory_there_is(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(batch_size=64)
    tried = rehearsal_of(trainer)
    kept = trainer.weights.bytes_to_come()
    noise = torch.randn(20, 3, 4, 4)
    condition = tried._batch(1, 1).batch.condition.take(torch.zeros(20, dtype=torch.int64))
    with torch.no_grad():
        taken = peak_bytes(lambda: trainer.field(noise, torch.ones(20), condition), trainer.family.device)
    held = 128 * peak_bytes(lambda: tried._batch(1, 1), trainer.family.device)
    set_free(monkeypatch, round((taken + held + kept) / 0.8) + 100)
    assert tried.width(trainer.field, kept, processes=1) == 20
    set_free(monkeypatch, 10**12)
    assert tried.width(trainer.field, kept, processes=1) == 128  # no more than an update has
    set_free(monkeypatch, 0)
    assert tried.width(trainer.field, kept, processes=1) == 1


def test_processes_share_the_memory_of_the_host(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(batch_size=64)
    tried = rehearsal_of(trainer)
    set_free(monkeypatch, 150_000)
    alone, shared = (tried.width(trainer.field, 0, processes) for processes in (1, 2))
    assert 1 <= shared < alone


def test_a_run_keeps_its_width_and_its_bits(
    make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[int] = []

    def width(self: Rehearsal, *arguments: Any) -> int:
        measured.append(4 if not measured else 2)
        return measured[-1]

    monkeypatch.setattr(Rehearsal, "width", width)
    auto: dict[str, Any] = {"rollout_batch_size": "auto", "max_steps": 6}
    make_trainer(output_dir=tmp_path / "given", max_steps=6, rollout_batch_size=4).train()
    make_trainer(output_dir=tmp_path / "halved", **auto | {"max_steps": 3}).train()
    again = make_trainer(output_dir=tmp_path / "halved", **auto)
    assert again.rollout_batch_size is None
    again.train()
    assert measured == [4] and again.rollout_batch_size == 4
    assert bits(tmp_path / "halved", 6) == bits(tmp_path / "given", 6)
    saved = load_checkpoint(tmp_path / "halved" / "checkpoints" / "step-00000006")
    assert saved.made_of["rollout_batch_size"] == 4
    make_trainer(output_dir=tmp_path / "other", **auto).train()
    assert measured == [4, 2]


def test_a_number_may_take_the_place_of_what_was_measured(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Rehearsal, "width", lambda self, *arguments: 5)
    make_trainer(rollout_batch_size="auto", max_steps=2).train()
    again = make_trainer(rollout_batch_size=2, max_steps=4)
    again.train()
    assert again.rollout_batch_size == 2


def test_measuring_leaves_no_trace(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    make_trainer(output_dir=tmp_path / "null").train()
    make_trainer(output_dir=tmp_path / "auto", rollout_batch_size="auto").train()
    assert bits(tmp_path / "auto", 12) == bits(tmp_path / "null", 12)


def test_a_signal_while_a_run_measures_ends_it_at_once(
    make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def width(self: Rehearsal, *arguments: Any) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        return 4

    with monkeypatch.context() as patch:
        patch.setattr(Rehearsal, "width", width)
        with pytest.raises(Interrupted, match="stopped before training began, so no update is lost"):
            make_trainer(rollout_batch_size="auto").train()
    assert make_trainer(max_steps=1).train().step == 1


def test_an_update_is_rehearsed_alone_together_and_with_a_dropped_prompt(make_trainer: MakeTrainer) -> None:
    trainer, seen = make_trainer(), []
    tried = rehearsal_of(trainer)

    def field(sample: Tensor, sigma: Tensor, condition: TinyCondition) -> Tensor:
        seen.append(tuple(bool(row.any()) for row in condition.embedding))  # zeros without a prompt
        return trainer.field(sample, sigma, condition)

    tried.update(field, trainer._teachers())
    assert set(seen) == {(True,), (True, True), (True, False)}


@pytest.mark.parametrize("value", [0, -1, True, 2.0, "all", [1]])
def test_a_width_that_is_none_is_told(value: Any, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^rollout_batch_size must be an integer from 1 up, or 'auto', got"
    ):
        TrainConfig(output_dir=tmp_path, rollout_batch_size=value)


def test_memory_that_ends_after_all_is_told(
    make_trainer: Callable[..., DanceOPDTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(rollout_batch_size="auto")

    def full(*arguments: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(trainer, "field", full)
    with pytest.raises(
        MemoryError, match=r"rollout_batch_size=auto \(to a number, lower than the one measured\)"
    ):
        trainer.train()
