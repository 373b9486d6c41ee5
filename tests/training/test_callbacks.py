from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from danceopd.training import (
    Callback,
    DanceOPDTrainer,
    DivergedError,
    Route,
    Teacher,
    TrainResult,
    read_metrics,
)
from danceopd.training.callbacks import Trainer

MakeTrainer = Callable[..., DanceOPDTrainer]


class Diary(Callback):
    def __init__(self, fail_in: str = "") -> None:
        self.fail_in = fail_in
        self.entries: list[Any] = []

    def on_start(self, trainer: Trainer) -> None:
        self._note("start", trainer.step)

    def on_update(self, line: Mapping[str, Any]) -> None:
        torch.rand(3)  # what a callback draws is its own affair
        self._note("update", line["step"])

    def on_save(self, path: Path) -> None:
        assert (path / "state.json").is_file()
        self._note("save", int(path.name.partition("-")[2]))

    def on_end(self, result: TrainResult) -> None:
        self._note("end", result)

    def on_error(self, error: BaseException) -> None:
        self._note("error", error)

    def _note(self, what: str, about: Any) -> None:
        self.entries.append((what, about))
        if what == self.fail_in:
            raise OSError(f"no more of {what}")


def test_a_callback_is_told_of_everything_in_order(make_trainer: MakeTrainer) -> None:
    diary = Diary()
    result = make_trainer(callbacks=[diary], max_steps=4, save_every=3).train()
    updates = [("update", step) for step in (1, 2, 3)]
    assert diary.entries == [
        ("start", 0), *updates, ("save", 3), ("update", 4), ("save", 4), ("end", result)
    ]  # fmt: skip
    assert result.exported is not None
    again = Diary()
    make_trainer(callbacks=[again], max_steps=6, save_every=3).train()
    assert again.entries[:2] == [("start", 4), ("update", 5)]


def test_a_callback_changes_no_bit_of_the_training(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    exports: list[Path | None] = []
    for callbacks in ([], [Diary()]):
        folder = tmp_path / str(len(callbacks))
        exports.append(
            make_trainer(callbacks=callbacks, output_dir=folder, drop_condition=0.5).train().exported
        )
    one, other = (load_file(path) for path in exports if path)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("where", ["update", "save"])
def test_a_callback_that_raises_ends_the_run_and_loses_nothing(
    make_trainer: MakeTrainer, tmp_path: Path, where: str
) -> None:
    diary, bystander = Diary(where), Diary()
    with pytest.raises(OSError, match=f"no more of {where}"):
        make_trainer(callbacks=[diary, bystander], save_every=2).train()
    assert diary.entries[-1][0] == bystander.entries[-1][0] == "error"
    step = {"update": 1, "save": 2}[where]
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == [f"step-{step:08d}"]
    assert len(read_metrics(tmp_path / "run" / "metrics.jsonl")) == step
    assert make_trainer(save_every=2).train().step == 12


def test_what_a_run_died_of_outlives_a_callback_that_fails_over_it(
    make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    bystander = Diary()
    trainer = make_trainer(
        teachers=[Teacher("one", checkpoint="nan")],
        routes=[Route("one", data="7")],
        callbacks=[Diary("error"), bystander],
    )
    with pytest.raises(DivergedError):
        trainer.train()
    assert [what for what, _ in bystander.entries] == ["start", "error"]
    assert capsys.readouterr().err == "danceopd: Diary failed after the run had: no more of error\n"


def test_a_log_gets_a_line_with_losses_speed_and_the_time_left(
    make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("danceopd.training.progress._SECONDS_BETWEEN_LINES", 0.0)
    make_trainer(progress=True).train()
    told = capsys.readouterr()
    assert told.out == ""
    lines = told.err.splitlines()
    assert [line.split()[1] for line in lines] == [f"{step}/12" for step in range(1, 13)]
    shape = r"  \d:\d\d:\d\d left  \d+\.\d samples/s  loss \d\.\d{4}  one \d\.\d{4}  two \d\.\d{4}$"
    assert re.search(shape, lines[-1]), lines[-1]


def test_a_terminal_gets_a_bar_that_is_left_whole(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    make_trainer(progress=True).train()
    *_, last, end = terminal.getvalue().splitlines()
    assert "12/12" in last and "samples/s" in last and "two 0." in last
    assert end == "\x1b[?25h"  # the cursor is back
