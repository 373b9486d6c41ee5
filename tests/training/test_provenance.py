"""What a run is made of is known by content, and is looked at again when the run continues."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import danceopd.training.provenance as provenance
from danceopd.families import Example, Teacher
from danceopd.files import sha256_of
from danceopd.training import ConfigError, DanceOPDTrainer, Route, StudentConfig, list_checkpoints
from danceopd.training.config_file import load_run_config
from tests.training.states import edit_state
from tests.training.tiny import Numbers, TinyFamily, TinyNet

MakeTrainer = Callable[..., DanceOPDTrainer]


def write_net(path: Path, seed: int) -> Path:
    save_file(TinyNet(seed, torch.float32).state_dict(), path)
    return path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    """Settings of a run whose teacher and start are files, and whose first teacher and base are not."""
    teacher, start = (
        write_net(tmp_path / "realism.safetensors", 2),
        write_net(tmp_path / "start.safetensors", 3),
    )
    return {
        "teachers": (Teacher("one", checkpoint="1"), Teacher("realism", checkpoint=str(teacher))),
        "routes": (Route("one", data="7"), Route("realism", data="5")),
        "student": StudentConfig(init=str(start)),
    }


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_config_and_checkpoint_tell_what_the_run_is_made_of(
    make_trainer: MakeTrainer, tmp_path: Path, files: dict[str, Any]
) -> None:
    make_trainer(**files, max_steps=5).train()
    told = json.loads((tmp_path / "run/provenance.json").read_text())
    assert told["content"]["teacher 'one'"] == {}
    assert told["content"]["teacher 'realism'"] == {"net": sha256_of(tmp_path / "realism.safetensors")}
    assert told["content"]["the student"] == {"net": sha256_of(tmp_path / "start.safetensors")}
    assert len(told["content"]["the data of route 'one'"]["rows"]) == 64
    assert told["versions"]["torch"].startswith(torch.__version__.partition("+")[0])
    assert {"danceopd", "python", "diffusers", "peft", "device"} <= told["versions"].keys()
    state = json.loads((tmp_path / "run/checkpoints/step-00000005/state.json").read_text())
    assert state["made_of"] == {"versions": told["versions"], "content": told["content"]}
    assert load_run_config(tmp_path / "run/config.yaml").max_steps == 5


@pytest.mark.parametrize(
    ("name", "part"), [("realism", "teacher 'realism' is made of"), ("start", "the student is made of")]
)
def test_other_weights_behind_the_same_path_are_refused_by_name(
    make_trainer: MakeTrainer, tmp_path: Path, files: dict[str, Any], name: str, part: str
) -> None:
    make_trainer(**files, max_steps=7).train()
    path = tmp_path / f"{name}.safetensors"
    whole, before = path.read_bytes(), contents(tmp_path / "run")
    write_net(path, 4)
    with pytest.raises(ConfigError) as caught:
        make_trainer(**files).train()
    text = str(caught.value)
    assert text.startswith(f"{part} other weights than when the run in '") and "\n" not in text
    assert f"(net: now {sha256_of(path)[:12]}, then " in text and "name another output_dir" in text
    assert contents(tmp_path / "run") == before

    path.write_bytes(whole)  # another time of change, the same content
    assert make_trainer(**files).train().step == 12


def test_one_bit_of_a_teacher_is_enough(
    make_trainer: MakeTrainer, tmp_path: Path, files: dict[str, Any]
) -> None:
    make_trainer(**files, max_steps=7).train()
    path = tmp_path / "realism.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="teacher 'realism' is made of other weights"):
        make_trainer(**files).train()


@pytest.mark.parametrize(("name", "part"), [("realism", "teacher 'realism'"), ("start", "the student")])
def test_a_vanished_file_is_one_sentence(
    make_trainer: MakeTrainer, tmp_path: Path, files: dict[str, Any], name: str, part: str
) -> None:
    make_trainer(**files, max_steps=7).train()
    path = tmp_path / f"{name}.safetensors"
    whole, before = path.read_bytes(), contents(tmp_path / "run")
    path.unlink()
    with pytest.raises(ConfigError) as caught:
        make_trainer(**files).train()
    assert (
        str(caught.value)
        == f"'{path}' of {part} cannot be read (No such file or directory): restore the file."
    )
    assert contents(tmp_path / "run") == before
    path.write_bytes(whole)

    trainer = make_trainer(**files)
    path.unlink()  # after it was loaded: the content can no longer be told
    with pytest.raises(ConfigError, match="cannot be read"):
        trainer.train()
    path.write_bytes(whole)
    with pytest.raises(ConfigError, match="was changed while this run was starting"):
        trainer.train()
    assert make_trainer(**files).train().step == 12


@pytest.mark.parametrize("change", ["a text", "the order"])
def test_other_rows_are_refused_by_the_route(
    make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    make_trainer(max_steps=7).train()

    class Others(Numbers):
        def __getitem__(self, row: int) -> Example:
            number = {"a text": row + (row == 2) * 10, "the order": self.count - 1 - row}[change]
            return super().__getitem__(number if self.count == 5 else row)

    monkeypatch.setattr(TinyFamily, "data", lambda self, spec, **_: Others(int(spec)))
    with pytest.raises(ConfigError, match="the data of route 'two' is not what it was") as caught:
        make_trainer().train()
    assert "\n" not in str(caught.value)


def test_a_checkpoint_that_knows_no_contents_goes_on(
    make_trainer: MakeTrainer, tmp_path: Path, files: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    make_trainer(**files, max_steps=7).train()
    state = tmp_path / "run/checkpoints/step-00000007/state.json"
    edit_state(state, lambda saved: saved.pop("made_of"))
    (tmp_path / "run/provenance.json").unlink()
    assert make_trainer(**files).train().step == 12
    assert capsys.readouterr().err == ""
    last = json.loads((tmp_path / "run/checkpoints/step-00000012/state.json").read_text())
    assert last["made_of"]["content"]["the student"]


def test_files_are_hashed_once(
    make_trainer: MakeTrainer, tmp_path: Path, files: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    monkeypatch.setattr(provenance, "sha256_of", lambda path: read.append(path.name) or sha256_of(path))
    make_trainer(**files, max_steps=3).train()
    assert sorted(read) == ["realism.safetensors", "start.safetensors"]
    make_trainer(**files, max_steps=5).train()
    assert len(read) == 2
    os.utime(tmp_path / "start.safetensors")
    make_trainer(**files, max_steps=7).train()
    assert read[2:] == ["start.safetensors"]
    (tmp_path / "run/provenance.json").write_text('{"files": {"x": 3}}')
    make_trainer(**files, max_steps=9).train()
    assert len(read) == 5


def test_other_versions_are_told_in_one_line_and_go_on(
    make_trainer: MakeTrainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_trainer(max_steps=7).train()
    (path,) = list_checkpoints(tmp_path / "run/checkpoints")[-1:]
    edit_state(
        path / "state.json", lambda saved: saved["made_of"]["versions"].update(torch="2.0", device="other")
    )
    assert make_trainer(max_steps=9).train().step == 9
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("danceopd: this run was made with device other (now CPU with ")
    assert "torch 2.0 (now 2." in line and line.endswith("from here on it may differ in the last bits")
    assert make_trainer().train().step == 12
    assert capsys.readouterr().err == ""
