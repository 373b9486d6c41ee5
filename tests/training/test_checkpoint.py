from __future__ import annotations

import errno
import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import danceopd.training.checkpoint as checkpoint_module
from danceopd.training.checkpoint import (
    Checkpoint,
    list_checkpoints,
    load_checkpoint,
    prune_checkpoints,
    save_checkpoint,
    set_aside,
)
from danceopd.training.errors import CheckpointError, DamagedCheckpointError
from tests.training.runs import MakeTrainer
from tests.training.states import edit_state

ROOT = Path(__file__).parents[2]


def _checkpoint(step: int = 3, ema: bool = True) -> Checkpoint:
    generator = torch.Generator().manual_seed(step)
    weights = {"a.weight": torch.randn(4, 3, generator=generator), "b": torch.randn(5, generator=generator)}
    optimizer = {"b.exp_avg": torch.randn(5, generator=generator), "b.step": torch.tensor(float(step))}
    return Checkpoint(step, weights, optimizer, weights if ema else None, {"seed": 0, "rows": [1, 2]})


def _same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("ema", [False, True])
def test_what_is_saved_is_loaded(tmp_path: Path, ema: bool) -> None:
    saved = _checkpoint(ema=ema)
    path = save_checkpoint(tmp_path / "checkpoints", saved)
    loaded = load_checkpoint(path)
    assert path.name == "step-00000003"
    assert (loaded.step, loaded.run) == (3, saved.run)
    assert _same(dict(loaded.student), dict(saved.student))
    assert _same(dict(loaded.optimizer), dict(saved.optimizer))
    assert (loaded.ema is not None) == ema


def test_weights_that_are_views_are_saved_as_their_values(tmp_path: Path) -> None:
    base = torch.arange(12.0).view(3, 4)
    path = save_checkpoint(tmp_path, Checkpoint(1, {"w": base.T, "v": base[1]}, {}, None, {}))
    assert torch.equal(load_checkpoint(path).student["w"], base.T)
    assert torch.equal(load_checkpoint(path).student["v"], base[1])


@pytest.mark.parametrize(
    "name", ["student.safetensors", "optimizer.safetensors", "ema.safetensors", "state.json"]
)
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone"])
def test_damage_is_told_with_file_and_cure(tmp_path: Path, name: str, damage: str) -> None:
    file = save_checkpoint(tmp_path, _checkpoint()) / name
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[len(content) // 2 if name != "state.json" else 0] ^= 1
    file.unlink()
    if damage != "gone":
        file.write_bytes(
            content if damage == "flip" else content[: len(content) // 2] if damage == "cut" else b""
        )
    with pytest.raises(DamagedCheckpointError) as caught:
        load_checkpoint(file.parent)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    text = str(caught.value)
    assert name in text and "\n" not in text and "delete the folder" in text


def test_no_bit_of_the_state_can_flip_unnoticed(tmp_path: Path) -> None:
    saved = replace(_checkpoint(), made_of={"versions": {"torch": "2.6"}})
    file = save_checkpoint(tmp_path, saved) / "state.json"
    content = file.read_bytes()
    meaning = json.loads(content)
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        try:
            if json.loads(flipped) == meaning:  # white space
                continue
        except ValueError:
            pass
        file.write_bytes(flipped)
        with pytest.raises(DamagedCheckpointError):
            load_checkpoint(file.parent)


def test_a_checkpoint_from_before_contents_were_kept_is_read(tmp_path: Path) -> None:
    file = save_checkpoint(tmp_path, _checkpoint()) / "state.json"
    state = json.loads(file.read_text())
    file.write_text(json.dumps({key: state[key] for key in ("format", "step", "sha256", "run")}))
    assert load_checkpoint(file.parent).made_of == {}


def test_a_checkpoint_of_a_newer_danceopd_is_not_damaged(tmp_path: Path) -> None:
    file = save_checkpoint(tmp_path, _checkpoint()) / "state.json"
    edit_state(file, lambda state: state.update(format=99))
    with pytest.raises(CheckpointError, match=r"written by a newer danceopd \(format 99\)") as caught:
        load_checkpoint(file.parent)
    assert not isinstance(caught.value, DamagedCheckpointError)


def test_a_checkpoint_that_may_not_be_read_is_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_checkpoint(tmp_path, _checkpoint())

    def closed(file: Path) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(file))

    monkeypatch.setattr(checkpoint_module, "sha256_of", closed)
    with pytest.raises(CheckpointError, match="may not be read") as caught:
        load_checkpoint(path)
    assert not isinstance(caught.value, DamagedCheckpointError)


def test_what_is_set_aside_counts_no_more_and_stays(tmp_path: Path) -> None:
    names = [set_aside(save_checkpoint(tmp_path, _checkpoint())).name for _ in range(2)]
    assert names == ["damaged-step-00000003", "damaged-step-00000003-again"]
    prune_checkpoints(tmp_path, keep=1)
    assert (list_checkpoints(tmp_path), len(list(tmp_path.iterdir()))) == ([], 2)


@pytest.mark.parametrize(
    "state",
    ["[]", "{}", '{"format": 1, "step": 3, "sha256": [], "run": {}}', '{"format": 99}', "\x00", "null"],
)
def test_a_state_that_is_something_else_is_told(tmp_path: Path, state: str) -> None:
    path = save_checkpoint(tmp_path, _checkpoint())
    (path / "state.json").write_text(state)
    with pytest.raises(CheckpointError, match=r"state\.json' is damaged"):
        load_checkpoint(path)


def test_a_folder_without_a_checkpoint_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        load_checkpoint(tmp_path / "nothing")


def test_the_newest_are_kept_in_order_of_steps(tmp_path: Path) -> None:
    for step in (2, 100_000_000, 30, 9):
        save_checkpoint(tmp_path, _checkpoint(step))
    (tmp_path / "step-notes").mkdir()
    prune_checkpoints(tmp_path, keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000030", "step-100000000"]
    assert (tmp_path / "step-notes").is_dir()
    assert list_checkpoints(tmp_path / "none") == []


def test_a_checkpoint_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, _checkpoint())
    before = (path / "student.safetensors").stat()
    with pytest.raises(FileExistsError, match="is there already"):
        save_checkpoint(tmp_path, _checkpoint())
    assert (path / "student.safetensors").stat() == before


def test_a_full_disk_leaves_nothing_and_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, _checkpoint(1))

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint_module, "_flush", full)
    with pytest.raises(
        OSError, match=r"step-00000002': No space left on device; earlier checkpoints are untouched\.$"
    ):
        save_checkpoint(tmp_path, _checkpoint(2))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
import torch
import danceopd.training.checkpoint as module

root = Path(sys.argv[1])
weights = {"w": torch.arange(6.0)}

def in_child(work):
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    return os.waitpid(child, 0)[1]

def killed_at(count, *functions):
    # The process is killed on the count-th call of any of the functions, before the call does its work.
    left = count
    def dying(real):
        def call(*args, **kwargs):
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)
        return call
    for home, name in functions:
        setattr(home, name, dying(getattr(home, name)))

def write(count):
    steps = [(module, name) for name in ("save_file", "sha256_of", "_flush")]
    killed_at(count, *steps, (Path, "write_text"), (Path, "rename"))
    module.save_checkpoint(root, module.Checkpoint(2, weights, weights, weights, {}))

module.save_checkpoint(root, module.Checkpoint(1, weights, weights, None, {}))
for count in range(1, 100):
    status = in_child(lambda: write(count))
    found = [path.name for path in module.list_checkpoints(root)]
    for path in module.list_checkpoints(root):
        assert torch.equal(module.load_checkpoint(path).student["w"], weights["w"])
    assert found == ["step-00000001", "step-00000002"][: len(found)] and found, found
    module.prune_checkpoints(root, keep=2)
    assert sorted(path.name for path in root.iterdir()) == found, "a half-written folder stays"
    if len(found) == 2:
        assert not os.WIFSIGNALED(status) or count > 10
        break
else:
    raise AssertionError("never written")
assert count > 10, count

def prune(count):
    killed_at(count, (os, "unlink"), (os, "rmdir"), (Path, "rename"))
    module.prune_checkpoints(root, keep=1)

for count in range(1, 100):
    killed = os.WIFSIGNALED(in_child(lambda: prune(count)))
    for path in module.list_checkpoints(root):
        module.load_checkpoint(path)
    assert module.list_checkpoints(root)[-1].name == "step-00000002"
    if not killed:
        break
assert [path.name for path in root.iterdir()] == ["step-00000002"]
print("survived")
"""


def test_killed_at_any_moment_a_checkpoint_is_whole_or_absent(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_WRITING, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.strip() == "survived", done.stderr


def test_every_file_of_a_run_is_for_those_whom_the_umask_lets_in(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    before = os.umask(0o027)
    try:
        make_trainer(max_steps=1, ema_decay=0.9, validation={"rows": 1}).train()
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    # What is exported is the family's own.
    modes = {path.name: path.stat().st_mode & 0o777 for path in files if path.name != "student.safetensors"}
    modes |= {path.name: path.stat().st_mode & 0o777 for path in files if path.parent.name == "step-00000001"}
    assert len(modes) >= 8 and set(modes.values()) == {0o640}, modes
