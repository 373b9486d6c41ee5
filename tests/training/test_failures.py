"""What ends a run on the way leaves the last checkpoint, one sentence, and a run that goes on."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import danceopd.training.checkpoint as checkpoint_module
from danceopd.training import (
    ConfigError,
    DanceOPDTrainer,
    OutOfMemoryError,
    StudentConfig,
    list_checkpoints,
    load_checkpoint,
)
from danceopd.training.memory import out_of_memory_told
from tests.training.runs import put_in_place
from tests.training.test_trainer import comparable
from tests.training.tiny import TinyFamily

MakeTrainer = Callable[..., DanceOPDTrainer]
ROOT = Path(__file__).parents[2]


def outcome(folder: Path) -> tuple[object, ...]:
    files = [
        *sorted((folder / "checkpoints/step-00000012").glob("*.safetensors")),
        folder / "student.safetensors",
    ]
    return [path.read_bytes() for path in files], comparable(folder)


def steps_of_whole_checkpoints(folder: Path) -> list[int]:
    return [load_checkpoint(path).step for path in list_checkpoints(folder / "checkpoints")]


class FullDisk:
    """A disk that is full at one call of those that write; before and after there is room."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        self.left = at
        self.where = ""
        for home, name in [
            (checkpoint_module, "save_file"),
            (Path, "write_text"),
            (Path, "write_bytes"),
            (Path, "mkdir"),
            (Path, "rename"),
            (Path, "replace"),
            (os, "fsync"),
            (os, "write"),
        ]:
            monkeypatch.setattr(home, name, self._full(name, getattr(home, name)))
        export = TinyFamily.student

        def student(family: TinyFamily, *arguments: Any) -> Any:
            made = export(family, *arguments)
            object.__setattr__(made, "export", self._full("export", made.export))
            return made

        monkeypatch.setattr(TinyFamily, "student", student)

    def _full(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                self.where = name
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*arguments, **keywords)

        return call


def test_a_disk_that_is_full_at_any_write_loses_nothing_that_was_saved(
    make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"ema_decay": 0.9, "save_every": 6, "log_every": 4}
    make_trainer(output_dir=tmp_path / "whole", **settings).train()
    expected = outcome(tmp_path / "whole")
    seen: set[str] = set()
    for at in range(1, 100):
        folder = tmp_path / str(at)
        with monkeypatch.context() as patch:
            disk = FullDisk(patch, at)
            trainer = make_trainer(output_dir=folder, **settings)
            try:
                trainer.train()
                # Only the report may be missing from a run that comes to its end.
                assert disk.left > 0 or not (folder / "report.html").exists()
                if disk.left > 0:
                    break
            except (OSError, ConfigError) as error:
                assert "No space left on device" in str(error) and "\n" not in str(error)
            seen.add(disk.where)
        done = steps_of_whole_checkpoints(folder)
        assert done or trainer.step <= 6, (disk.where, at)  # else the first save itself found no room
        if disk.where == "write":  # the weights of that update are there all the same
            assert done[-1] == trainer.step
        assert make_trainer(output_dir=folder, **settings).train().step == 12
        assert outcome(folder) == expected, (disk.where, at)
        assert not list(folder.rglob(".*"))
        shutil.rmtree(folder)
    assert seen >= {"save_file", "write_text", "write_bytes", "mkdir", "rename", "replace", "fsync", "write"}
    assert "export" in seen


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`"),
    ],
)
def test_out_of_memory_names_what_to_change_and_the_run_goes_on_with_it(
    make_trainer: MakeTrainer, tmp_path: Path, error: Exception
) -> None:
    trainer = make_trainer()
    field = trainer.teachers[0]

    def breaking(*arguments: Any) -> torch.Tensor:
        if trainer.step == 7:
            raise error
        return field(*arguments)

    put_in_place(trainer, 0, breaking)
    with pytest.raises(OutOfMemoryError) as caught:
        trainer.train()
    text = str(caught.value)
    assert text.startswith("out of memory on cpu in update 8: change batch_size=3 (lower, and ")
    assert (
        "gradient_accumulation_steps=2 higher" in text and "rollout_batch_size=null (all 6) (lower)" in text
    )
    assert "student.gradient_checkpointing=false (to true)" in text and "\n" not in text
    assert steps_of_whole_checkpoints(tmp_path / "run") == [5, 7]

    student = StudentConfig(gradient_checkpointing=True)
    changed = {"batch_size": 1, "gradient_accumulation_steps": 6, "rollout_batch_size": 2, "student": student}
    assert make_trainer(**changed).train().step == 12


def test_where_activations_are_recomputed_already_the_resolution_is_named(make_trainer: MakeTrainer) -> None:
    run = make_trainer(student=StudentConfig(gradient_checkpointing=True), rollout_batch_size=4).run
    run = dataclasses.replace(run, resolution=1024)
    with pytest.raises(OutOfMemoryError) as caught, out_of_memory_told(run, 1):
        raise MemoryError
    assert "rollout_batch_size=4 (lower), or resolution=1024 (lower, in a new run)" in str(caught.value)
    with pytest.raises(RuntimeError, match="another"), out_of_memory_told(run, 1):
        raise RuntimeError("another")


@pytest.mark.parametrize("step", [0, 6, 12])
def test_pictures_that_find_no_memory_name_their_settings(
    make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    settings: dict[str, Any] = {"validation": {"every": 6 if step == 6 else 100, "rows": 2}}
    trainer = make_trainer(**settings)
    decode = TinyFamily.decode

    def breaking(family: TinyFamily, latents: torch.Tensor) -> torch.Tensor:
        if trainer.step == step:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(family, latents)

    with monkeypatch.context() as patch:
        patch.setattr(TinyFamily, "decode", breaking)
        with pytest.raises(OutOfMemoryError) as caught:
            trainer.train()
    told = f"pictures of validation were drawn after update {step}: change validation.rows=2 (lower) "
    assert told in str(caught.value) and "\n" not in str(caught.value)
    assert steps_of_whole_checkpoints(tmp_path / "run") == {0: [], 6: [5, 6], 12: [10, 12]}[step]
    assert make_trainer(validation={"every": 100, "rows": 1}).train().step == 12


REALLY_FULL = """
import json, os, resource, signal, subprocess, sys
from pathlib import Path
import torch
from danceopd.training import DanceOPDTrainer, TrainConfig, list_checkpoints, load_checkpoint
from tests.training.conftest import ROUTES, TEACHERS
from tests.training.tiny import TinyFamily

def train(folder):
    config = TrainConfig(output_dir=folder, max_steps=12, batch_size=3, gradient_accumulation_steps=2,
        num_rollout_steps=4, learning_rate=1e-2, save_every=5, progress=False, ema_decay=0.9)
    DanceOPDTrainer(family=TinyFamily(), teachers=TEACHERS, routes=ROUTES, config=config).train()

def told(folder, limit=None):
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        text = "nothing"
        try:
            train(folder)
        except OSError as error:
            text = str(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        (root / "told").write_text(text)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    whole = [load_checkpoint(path).step for path in list_checkpoints(folder / "checkpoints")]
    print(json.dumps([(root / "told").read_text(), whole, [path.name for path in folder.rglob(".*")]]))

root = Path(sys.argv[1])
told(root / "limited", 6000)  # less than the optimizer's file
(root / "metrics").mkdir()
told(root / "metrics")
limit = 2 * max(path.stat().st_size for path in (root / "metrics").rglob("*") if path.is_file())
metrics = root / "metrics/metrics.jsonl"
lines = metrics.read_text().splitlines(keepends=True)
room = limit - len("".join(lines[:10])) - 8  # in front of line 11, which is written again
metrics.write_text("".join([" " * room, *lines]))
last = list_checkpoints(root / "metrics/checkpoints")[-1]
last.rename(root / "not the last")
told(root / "metrics", limit)
(root / "small").mkdir()
if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", root / "small"]).returncode == 0:
    told(root / "small/run")
"""


def test_a_full_disk_ends_the_run_in_one_sentence(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    """Limits that the operating system sets, and a file system of 64 KiB where one may be mounted."""
    command = [sys.executable, "-c", REALLY_FULL, str(tmp_path)]
    apart = ["unshare", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*apart, "true"], capture_output=True).returncode:
        apart = []
    done = subprocess.run([*apart, *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    limited, whole, metrics, *small = map(json.loads, done.stdout.splitlines())
    assert limited[0].startswith(
        f"cannot write the checkpoint '{tmp_path}/limited/checkpoints/step-00000005'"
    )
    assert "File too large" in limited[0] and limited[1:] == [[], []]
    assert whole == ["nothing", [10, 12], []]
    # The update that could not be told is in the checkpoint all the same.
    assert metrics[0].startswith(
        f"cannot write '{tmp_path}/metrics/metrics.jsonl': File too large; make room"
    )
    assert metrics[1:] == [[10, 11], []]
    if apart:
        ((text, steps, left),) = small
        assert "No space left on device" in text and "\n" not in text
        assert steps and not left
