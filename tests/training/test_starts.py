"""Where a run starts, and which folders it leaves alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import danceopd.training.trainer as trainer_module
from danceopd.training import (
    CheckpointError,
    ConfigError,
    DivergedError,
    Teacher,
    list_checkpoints,
    write_config,
)
from tests.training.conftest import ROUTES, TEACHERS
from tests.training.runs import MakeTrainer, at_update, bits
from tests.training.test_trainer import comparable


def test_a_new_run_is_not_written_over_an_old_one(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    make_trainer().train()
    with pytest.raises(ConfigError, match=r"holds a run already \(step-00000012\): resume it, delete it"):
        make_trainer(seed=3).train(resume=False)
    make_trainer(output_dir=tmp_path / "new").train(resume=False)


def test_a_run_killed_before_its_first_checkpoint_starts_again(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    trainer = make_trainer()
    (tmp_path / "run").mkdir()
    write_config(trainer.run, tmp_path / "run/config.yaml")
    (tmp_path / "run/metrics.jsonl").write_text('{"step": 1, "loss": 9.0}\n{"step": 2, "lo')
    with pytest.raises(ConfigError, match="seed=0 but 1"):
        make_trainer(seed=1).train()
    assert trainer.train().step == 12
    assert [line["step"] for line in comparable(tmp_path / "run")] == list(range(1, 13))


def test_metrics_of_something_else_are_not_cut(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(ConfigError, match=r"metrics\.jsonl of something else"):
        make_trainer().train()
    assert (tmp_path / "run/metrics.jsonl").read_text() == '{"step": 1}\n'


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "state gone", "state cut"])
def test_behind_a_damaged_checkpoint_the_one_before_it_is_continued(
    make_trainer: MakeTrainer, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_trainer(ema_decay=0.9).train()
    expected, metrics = bits(tmp_path / "run", 12), comparable(tmp_path / "run")
    newest = list_checkpoints(tmp_path / "run/checkpoints")[-1]
    file = newest / ("state.json" if "state" in damage else "optimizer.safetensors")
    content = bytearray(file.read_bytes())
    if "gone" in damage:
        file.unlink()
    elif "cut" in damage:
        file.write_bytes(content[: len(content) // 2])
    else:
        content[-1] ^= 64
        file.write_bytes(content)
    left = {path.name: path.read_bytes() for path in newest.iterdir()}

    with pytest.raises(ConfigError, match="seed=0 but 1"):
        make_trainer(ema_decay=0.9, seed=1).train()
    assert newest.is_dir()  # nothing is moved for a run that does not start
    capsys.readouterr()

    assert make_trainer(ema_decay=0.9).train().step == 12
    (line,) = capsys.readouterr().err.splitlines()
    aside = newest.with_name("damaged-step-00000012")
    assert line.startswith(f"danceopd: checkpoint file '{file}' is damaged (")
    assert line.endswith(f"): going on after update 10; the damaged one is kept as '{aside}'")
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == left
    assert bits(tmp_path / "run", 12) == expected
    assert comparable(tmp_path / "run") == metrics


def test_when_no_checkpoint_is_whole_nothing_is_begun(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    make_trainer().train()
    for path in list_checkpoints(tmp_path / "run/checkpoints"):
        (path / "student.safetensors").write_bytes(b"0" * 64)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(
        CheckpointError, match=r"step-00000012/student.*none of the 2 in that folder is whole"
    ):
        make_trainer().train()
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_a_checkpoint_can_be_named(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    make_trainer().train()
    fork = tmp_path / "fork"
    result = make_trainer(output_dir=fork).train(resume=tmp_path / "run/checkpoints/step-00000010")
    assert result.step == 12
    assert bits(fork, 12) == bits(tmp_path / "run", 12)
    assert [line["step"] for line in comparable(fork)] == [11, 12]
    with pytest.raises(CheckpointError, match=r"holds a later checkpoint \(step-00000012\)"):
        make_trainer().train(resume=tmp_path / "run/checkpoints/step-00000010")
    with pytest.raises(ConfigError, match="seed=0 but 1"):
        make_trainer(output_dir=tmp_path / "other", seed=1).train(
            resume=tmp_path / "run/checkpoints/step-00000010"
        )
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        make_trainer(output_dir=tmp_path / "other").train(resume=tmp_path / "none")
    assert not (tmp_path / "other").exists()


def test_a_named_checkpoint_is_not_put_over_another_run(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    """That one has no checkpoint yet, so its config alone tells whose folder it is."""
    make_trainer().train()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/metrics.jsonl").write_text('{"step": 1}\n')
    write_config(make_trainer(output_dir=tmp_path / "other", seed=1).run, tmp_path / "other/config.yaml")
    before = (tmp_path / "other/config.yaml").read_bytes()
    checkpoint = tmp_path / "run/checkpoints/step-00000010"
    with pytest.raises(ConfigError, match=r"the run in '.*/other' was made with seed=1 but 0 is asked for"):
        make_trainer(output_dir=tmp_path / "other").train(resume=checkpoint)
    assert sorted(path.name for path in (tmp_path / "other").iterdir()) == ["config.yaml", "metrics.jsonl"]
    assert (tmp_path / "other/config.yaml").read_bytes() == before
    (tmp_path / "other/metrics.jsonl").unlink()  # then nothing was trained there
    assert make_trainer(output_dir=tmp_path / "other").train(resume=checkpoint).step == 12


def test_two_processes_do_not_share_a_folder(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = make_trainer(max_steps=2)
    errors = []

    def other() -> None:
        try:
            make_trainer(max_steps=2).train()
        except ConfigError as error:
            errors.append(str(error))

    at_update(trainer, 0, other)
    trainer.train()
    assert len(errors) >= 1 and "in use by another training process" in errors[0]


@pytest.mark.parametrize("place_is_there", [False, True])
@pytest.mark.parametrize(
    ("changes", "resume", "words"),
    [
        ({}, True, None),
        ({"seed": 1}, True, "seed=0 but 1"),
        ({}, False, "holds a run already"),
    ],
    ids=["the-same-run", "another-run", "a-new-run"],
)
def test_what_another_process_trained_before_the_lock_is_seen(
    make_trainer: MakeTrainer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place_is_there: bool,
    changes: dict[str, Any],
    resume: bool,
    words: str | None,
) -> None:
    """The other training begins after this one has looked at the folder, and ends before it has the lock."""
    if place_is_there:
        (tmp_path / "run").mkdir()
    lock, found = trainer_module.open_folder, []

    def late(folder: Path) -> Any:
        if not found:
            found.append(folder)
            make_trainer(max_steps=7).train()
            found.extend(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())
        return lock(folder)

    monkeypatch.setattr(trainer_module, "open_folder", late)
    trainer = make_trainer(**changes)
    if words is None:
        assert trainer.train(resume=resume).step == 12
        make_trainer(output_dir=tmp_path / "whole").train()
        assert bits(tmp_path / "run", 12) == bits(tmp_path / "whole", 12)
        assert comparable(tmp_path / "run") == comparable(tmp_path / "whole")
    else:
        with pytest.raises(ConfigError, match=words):
            trainer.train(resume=resume)
        left = [path.read_bytes() for path in sorted((tmp_path / "run").rglob("*")) if path.is_file()]
        assert left == found[1:]


def test_what_failed_before_its_first_update_does_not_bind_its_folder(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    """Nor do the pictures that its teachers drew outlive it."""
    validation = {"every": 6, "rows": 1}
    bad = make_trainer(teachers=[Teacher("one", checkpoint="nan")], routes=ROUTES[:1], validation=validation)
    with pytest.raises(DivergedError):
        bad.train()
    assert (tmp_path / "run/config.yaml").exists()
    changed: dict[str, Any] = {"teachers": TEACHERS[:1], "routes": ROUTES[:1], "validation": validation}
    assert make_trainer(**changed, learning_rate=1e-3).train(resume=False).step == 12
    assert "learning_rate: 0.001" in (tmp_path / "run/config.yaml").read_text()
    make_trainer(output_dir=tmp_path / "whole", **changed, learning_rate=1e-3).train()
    pictures = [(tmp_path / run / "grids/step-00000012.png").read_bytes() for run in ("run", "whole")]
    assert pictures[0] == pictures[1]
