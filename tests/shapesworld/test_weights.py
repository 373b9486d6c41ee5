from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from danceopd.shapesworld import ShapesWorldFamily
from danceopd.shapesworld.weights import (
    STUDENT_FILE,
    find_weights,
    portable_name,
    read_weights,
    write_weights,
)


def test_weights_are_found_by_name_file_and_folder(
    family: ShapesWorldFamily, random_experts: Path, tmp_path: Path
) -> None:
    expert = random_experts / "local.safetensors"
    assert find_weights("local") == expert
    assert find_weights(str(expert)) == expert
    run = write_weights(tmp_path / STUDENT_FILE, {"x": torch.zeros(1)}, {"kind": "full"})
    assert find_weights(str(tmp_path)) == run


def test_weights_are_read_in_float32(tmp_path: Path) -> None:
    path = write_weights(
        tmp_path / "x.safetensors",
        {"w": torch.ones(2, 3, dtype=torch.bfloat16).T},
        {"kind": "full", "seed": "3"},
    )
    weights = read_weights(str(path))
    assert weights.tensors["w"].dtype == torch.float32
    assert weights.tensors["w"].shape == (3, 2)
    assert weights.metadata == {"kind": "full", "seed": "3"}
    assert not weights.is_lora


def test_files_are_for_everyone_whom_the_umask_lets_in(tmp_path: Path) -> None:
    path = write_weights(tmp_path / "x.safetensors", {"w": torch.ones(1)}, {"kind": "full"})
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_names_in_files_outlive_the_working_folder(
    family: ShapesWorldFamily, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_weights(tmp_path / "mine.safetensors", {"x": torch.zeros(1)}, {"kind": "full"})
    monkeypatch.chdir(tmp_path)
    assert portable_name("base") == "base"
    assert portable_name("mine.safetensors") == str(path.resolve())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "globe",
            "'globe' is no file and no shipped expert (base, local, global, edit); did you mean 'global'?",
        ),
        (
            "runs/mine",
            "'runs/mine' is no file and no shipped expert (base, local, global, edit); give a file",
        ),
        (".", "'.' holds no student.safetensors; finish its training first."),
    ],
)
def test_weights_that_are_not_there(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as error:
        find_weights(name)
    assert message in str(error.value)


@pytest.mark.parametrize("content", [b"", b"not safetensors", None], ids=["empty", "text", "cut"])
def test_a_damaged_file_is_one_sentence(content: bytes | None, random_experts: Path, tmp_path: Path) -> None:
    whole = (random_experts / "base.safetensors").read_bytes()
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(ValueError) as error:
        read_weights(str(path))
    message = str(error.value)
    assert message.startswith(f"{path} cannot be read as safetensors (")
    assert message.endswith("; replace the file.")
    assert "\n" not in message


def test_a_missing_shipped_expert_is_one_sentence(
    family: ShapesWorldFamily, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("danceopd.shapesworld.weights.FOLDER", tmp_path)
    with pytest.raises(ValueError, match=r"base\.safetensors cannot be read"):
        family.field("base")
    lora = write_weights(
        tmp_path / "x", {"a.lora_A.weight": torch.zeros(1)}, {"kind": "lora", "base": "base"}
    )
    with pytest.raises(ValueError, match=r"base\.safetensors cannot be read \(No such file or directory\)"):
        family.field(str(lora))


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_weights(tmp_path / "x.safetensors", {"w": torch.zeros(2)}, {"kind": "full"})

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_weights(path, {"w": torch.ones(2)}, {"kind": "full"})
    assert torch.equal(load_file(path)["w"], torch.zeros(2))
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_folder_that_is_not_there_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"cannot write .*x\.safetensors"):
        write_weights(tmp_path / "gone" / "x.safetensors", {"w": torch.zeros(2)}, {"kind": "full"})
