"""``danceopd train``, and its report."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.main import get_command

from danceopd import cli
from danceopd.training.provenance import Sources
from tests.cli.running import run, told
from tests.page.html import Page
from tests.training.tiny import TinyFamily


def test_train_then_sample(config: Path, tmp_path: Path) -> None:
    result = run("train", config, "max_steps=3")
    assert result.exit_code == 0, result.output
    assert "3 updates done; the student is in" in result.stderr
    again = run("train", config, "max_steps=3", "--no-check")
    assert "3 updates were done already (raise max_steps to go on); the student is in" in again.stderr
    out = tmp_path / "image.png"
    result = run("sample", tmp_path / "run", "--prompt", "1", "--steps", 2, "--out", out)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(out)
    with Image.open(out) as image:
        assert image.size == (256, 256)


def test_a_checkpoint_is_sampled_as_the_student_that_it_holds(config: Path, tmp_path: Path) -> None:
    assert run("train", config, "ema_decay=0.9").exit_code == 0
    older = tmp_path / "run/checkpoints/step-00000002"
    result = run("sample", older, "--prompt", "1", "--steps", 1, "--out", tmp_path / "image.png")
    assert result.exit_code == 0, result.output
    assert f"{older}: 2 of 4 updates" in result.stderr
    told(run("sample", older, "--prompt", "1", "--dtype", "float32"), "is for an EXPERT", "is a run")


def test_train_continues_and_refuses_another_run(config: Path, tmp_path: Path) -> None:
    assert run("train", config).exit_code == 0
    assert run("train", config, "max_steps=6").exit_code == 0
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    told(run("train", config, "max_steps=6", "seed=1"), "seed=0 but 1")
    told(run("train", config, "--no-resume"), "holds a run already")
    told(
        run("train", config, "--no-resume", "--resume-from", "x"), "--no-resume", "--resume-from x", "one of"
    )
    fork = run(
        "train",
        config,
        f"output_dir={tmp_path}/fork",
        "--resume-from",
        tmp_path / "run/checkpoints/step-00000006",
    )
    told(fork, "max_steps=4 is less than the 6 updates")


def signalled(monkeypatch: pytest.MonkeyPatch, *numbers: int) -> None:
    """Signals in the middle of the second update."""
    teacher = TinyFamily.teacher

    def interrupted(self: TinyFamily, asked: Any) -> Any:
        field, calls = teacher(self, asked), []

        def call(*args: Any) -> Any:
            calls.append(1)
            if len(calls) == 2:
                for number in numbers:
                    signal.raise_signal(number)
            return field(*args)

        return call

    monkeypatch.setattr(TinyFamily, "teacher", interrupted)


def test_a_stopped_training_says_so(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        signalled(patch, signal.SIGTERM)
        result = run("train", config, "--no-check")
    assert result.exit_code == 128 + signal.SIGTERM
    assert f"Stopped after 2 of 4 updates; to go on: danceopd train {config} --no-check" in result.stderr


def test_a_second_ctrl_c_says_what_is_saved(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with monkeypatch.context() as patch:
            signalled(patch, signal.SIGINT, signal.SIGINT)
            result = run("train", config, "--no-check")
    finally:
        signal.signal(signal.SIGINT, before)
    assert result.exit_code == 128 + signal.SIGINT
    last = result.stderr.splitlines()[-1]
    assert last.startswith(
        "Stopped at once, with a checkpoint after 1 of 4 updates; to go on: danceopd train"
    )


def test_a_key_given_as_an_option_is_told_how_it_is_given(config: Path) -> None:
    told(run("train", config, "--max_steps=10"), "no option: write max_steps=10, without dashes")
    told(run("check", config, "--batch-size", "4"), "no option: write batch_size=4, without dashes")
    told(run("train", config, "--student.rank", "4"), "write student.rank=4,")
    told(run("train", config, "--max-steps", "--no-check"), "write max_steps=VALUE,")
    told(run("train", "--progress", config), "write progress=VALUE,")
    train: Any = get_command(cli.app)
    train.commands["train"].make_context(
        "train", ["x", "--seed", "1"], resilient_parsing=True
    )  # as shells do
    other = run("train", config, "--nothing=1")
    assert other.exit_code == 2 and "--nothing" in other.stderr and "without dashes" not in other.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_rows_are_encoded_ends_in_a_sentence(
    config: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, tmp_path: Path
) -> None:
    prepare, before = TinyFamily.prepare, signal.getsignal(number)

    def interrupted(self: TinyFamily, *args: Any, **how: Any) -> Any:
        signal.raise_signal(number)
        return prepare(self, *args, **how)

    with monkeypatch.context() as patch:
        patch.setattr(TinyFamily, "prepare", interrupted)
        told(run("train", config, "--no-check"), "stopped while rows were encoded", code=128 + number)
    assert signal.getsignal(number) == before
    assert run("train", config, "--no-check").exit_code == 0


def test_divergence_is_exit_code_one(config: Path, tmp_path: Path) -> None:
    nan = ("train", config, "teachers.0.checkpoint=nan")
    told(run(*nan, "--no-check"), "loss became nan in update 1", code=1)
    told(run(*nan, f"output_dir={tmp_path}/other"), "teacher 'one' returns a velocity that is not finite")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("max_step=1", "did you mean 'max_steps'?"),
        ("family=other", "family must be tiny"),
        ("device=cuda:9", "device 'cuda:9' is not here"),
        ("device=gpu", "device 'gpu' is unknown"),
        ("device=meta", "device 'meta' is not supported"),
        ("routes.0.data=rows.csv", "'rows.csv'"),
        ("routes.0.teacher=two", "unknown teacher 'two'"),
        ("teachers.0.checkpoint=nowhere.safetensors", "nowhere.safetensors"),
        ("output_dir=/proc/none", "output_dir '/proc/none' cannot be written"),
        ("cache_dir=/proc/none", "cache_dir '/proc/none' cannot be written"),
    ],
)
def test_a_mistake_in_the_config_is_one_sentence(
    config: Path, tmp_path: Path, override: str, words: str
) -> None:
    told(run("train", config, override), words)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_report_is_written_anew_at_any_time(config: Path, tmp_path: Path) -> None:
    told(run("report", tmp_path / "none"), "is not the folder of a run")
    assert run("train", config, "max_steps=2", "--no-check").exit_code == 0
    (path,) = tmp_path.rglob("report.html")
    path.unlink()
    result = run("report", path.parent)
    assert (result.exit_code, result.stdout) == (0, f"{path}\n")
    assert "Finished: 2 updates." in Page(path).text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("command", "words"), [("train", "before training began"), ("check --json", "the check was stopped")]
)
def test_a_signal_during_the_check_ends_in_a_sentence_and_leaves_no_folder(
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    number: signal.Signals,
    command: str,
    words: str,
) -> None:
    before = signal.signal(number, lambda *_: None)  # what would come by default ends the test as well
    try:
        monkeypatch.setattr(TinyFamily, "teacher", lambda *_: signal.raise_signal(number))
        told(run(*command.split(), config), words, code=128 + number)
    finally:
        signal.signal(number, before)
    assert not (tmp_path / "run").exists()


def test_a_signal_while_the_folder_is_made_ends_in_a_sentence(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Sources, "write", lambda *_: signal.raise_signal(signal.SIGTERM))
        told(run("train", config, "--no-check"), "stopped before training began", code=128 + signal.SIGTERM)
    assert run("train", config, "--no-check").exit_code == 0
