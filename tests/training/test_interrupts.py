"""Runs that are told to stop, or that fail on the way, lose nothing."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from danceopd.training import (
    list_checkpoints,
)
from tests.training.runs import MakeTrainer, at_update, bits
from tests.training.test_trainer import comparable


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_between_updates_and_the_run_goes_on(
    make_trainer: MakeTrainer, tmp_path: Path, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    trainer = make_trainer()
    at_update(trainer, 6, lambda: os.kill(os.getpid(), number))
    result = trainer.train()
    assert (result.step, result.exported, result.stopped_by) == (7, None, number)
    assert "once more stops at once" in capsys.readouterr().err
    assert signal.getsignal(number) == before
    assert list_checkpoints(tmp_path / "run/checkpoints")[-1].name == "step-00000007"

    assert make_trainer().train().step == 12
    make_trainer(output_dir=tmp_path / "whole").train()
    assert bits(tmp_path / "run", 12) == bits(tmp_path / "whole", 12)
    assert comparable(tmp_path / "run") == comparable(tmp_path / "whole")


@pytest.mark.parametrize("numbers", [(signal.SIGINT, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)])
def test_one_wish_told_by_both_signals_is_one_wish(
    make_trainer: MakeTrainer, tmp_path: Path, numbers: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = make_trainer()
    at_update(trainer, 6, lambda: [os.kill(os.getpid(), number) for number in numbers])
    result = trainer.train()
    assert (result.step, result.stopped_by) == (7, numbers[0])
    assert capsys.readouterr().err.count("once more stops at once") == 1


def test_the_second_signal_stops_at_once_and_loses_no_update(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    trainer = make_trainer()

    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    at_update(trainer, 3, twice)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
    finally:
        signal.signal(signal.SIGINT, before)
    assert [path.name for path in list_checkpoints(tmp_path / "run/checkpoints")] == ["step-00000003"]
    assert make_trainer().train().step == 12


@pytest.mark.parametrize("step", [0, 3])
def test_an_error_on_the_way_saves_what_was_learnt_and_the_same_trainer_goes_on(
    make_trainer: MakeTrainer, tmp_path: Path, step: int
) -> None:
    trainer = make_trainer(batch_size=1, gradient_accumulation_steps=6)

    def fail() -> None:
        raise RuntimeError("the device is lost")

    at_update(trainer, step, fail, call=2)  # when the first pass has left its gradients
    with pytest.raises(RuntimeError, match="the device is lost"):
        trainer.train()
    saved = [path.name for path in list_checkpoints(tmp_path / "run/checkpoints")]
    assert saved == (["step-00000003"] if step else [])

    trainer.train()
    make_trainer(output_dir=tmp_path / "whole", batch_size=1, gradient_accumulation_steps=6).train()
    assert bits(tmp_path / "run", 12) == bits(tmp_path / "whole", 12)


def test_an_error_inside_the_optimizer_saves_no_torn_weights(
    make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(save_every=2)
    step = trainer.weights.step
    monkeypatch.setattr(trainer.weights, "step", lambda rate: 1 / 0 if trainer.step == 3 else step(rate))
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    assert [path.name for path in list_checkpoints(tmp_path / "run/checkpoints")] == ["step-00000002"]


def test_a_trainer_goes_on_in_the_same_process(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = make_trainer()
    at_update(trainer, 6, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert trainer.train().step == 7
    assert trainer.train().step == 12
    make_trainer(output_dir=tmp_path / "whole").train()
    assert bits(tmp_path / "run", 12) == bits(tmp_path / "whole", 12)


def test_in_a_thread_signals_are_left_to_the_main_one(make_trainer: MakeTrainer) -> None:
    results = []
    thread = threading.Thread(target=lambda: results.append(make_trainer(max_steps=2).train()))
    thread.start()
    thread.join()
    assert results[0].step == 2
