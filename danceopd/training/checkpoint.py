"""Checkpoints in safetensors: a folder that is whole or not there, and that tells when it was damaged later.

A checkpoint is written into a hidden folder next to its place, flushed to the disk, and then renamed. A
process killed at any moment leaves at most the hidden folder, which the next run removes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from danceopd.training.errors import CheckpointError

FORMAT = 1
_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run continues from; what a step draws needs no state, it follows from the step alone.

    Args:
        step: updates done.
        student: fp32 trained weights by parameter name.
        optimizer: AdamW's tensors, ``<parameter>.<exp_avg | exp_avg_sq | step>``.
        ema: fp32 running mean of the weights, None when the run keeps none.
        run: the run's settings as `danceopd.training.config.as_mapping` gives them, and its rows per route.
    """

    step: int
    student: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    ema: Mapping[str, Tensor] | None
    run: Mapping[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write ``checkpoint`` to ``folder/step-00000300`` and return that path.

    Raises:
        FileExistsError: if there is a checkpoint of that step already; it is left alone.
        OSError: if it cannot be written; nothing of it stays.
    """
    place = folder / f"step-{checkpoint.step:08d}"
    if place.exists():
        raise FileExistsError(f"'{place}' is there already: delete it to write that checkpoint again.")
    partial = folder / f".partial-{place.name}"
    parts = {"student": checkpoint.student, "optimizer": checkpoint.optimizer, "ema": checkpoint.ema}
    try:
        partial.mkdir(parents=True)
        digests = {}
        for part, tensors in parts.items():
            if tensors is not None:
                path = partial / f"{part}.safetensors"
                save_file(
                    {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path
                )
                digests[path.name] = _digest(path)
                _flush(path)
        state = {"format": FORMAT, "step": checkpoint.step, "sha256": digests, "run": checkpoint.run}
        (partial / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
        _flush(partial / "state.json")
        _flush(partial)
        partial.rename(place)
        _flush(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        reason = getattr(error, "strerror", None) or error
        raise OSError(
            f"cannot write the checkpoint '{place}': {reason}; earlier checkpoints are untouched."
        ) from error
    return place


def load_checkpoint(path: Path) -> Checkpoint:
    """Read the checkpoint folder ``path``, on the CPU.

    Raises:
        CheckpointError: if it is missing or damaged; the message names the file and the cure.
    """
    path = Path(path)
    if not (path / "state.json").is_file():
        raise CheckpointError(
            f"'{path}' is no checkpoint: it holds no state.json; name a folder such as step-00000300."
        )
    state = _read_state(path / "state.json")
    parts = {}
    for name, digest in state["sha256"].items():
        file = path / name
        try:
            if _digest(file) != digest:
                raise _damaged(file, "its content has changed since it was written")
            parts[file.stem] = load_file(file)
        except (OSError, SafetensorError) as error:
            raise _damaged(file, getattr(error, "strerror", None) or str(error)) from None
    return Checkpoint(state["step"], parts["student"], parts["optimizer"], parts.get("ema"), state["run"])


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints in ``folder``, by step; empty when there is no such folder."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.is_dir() and _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.partition("-")[2]))


def prune_checkpoints(folder: Path, keep: int) -> None:
    """Delete all but the ``keep`` newest checkpoints, and what a killed process left half done."""
    for path in list_checkpoints(folder)[:-keep]:
        # Renamed first: a kill in the middle of the deletion must not leave a checkpoint that looks whole.
        path.rename(folder / f".deleted-{path.name}")
    for path in folder.glob(".*-step-*"):
        shutil.rmtree(path)


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        whole = {"student.safetensors", "optimizer.safetensors"} <= set(state["sha256"])
        if state["format"] != FORMAT or not whole or state["step"] != int(path.parent.name.partition("-")[2]):
            raise ValueError("it does not fit its folder or this version of danceopd")
        if not isinstance(state["run"], dict):
            raise ValueError("it holds no settings of the run")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, str(error)) from None
    return dict(state)


def _damaged(file: Path, why: str) -> CheckpointError:
    reason = " ".join(why.split()).rstrip(".")
    return CheckpointError(
        f"checkpoint file '{file}' is damaged ({reason}): delete the folder '{file.parent}' to go on from "
        "the checkpoint before it."
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _flush(path: Path) -> None:
    """Wait until ``path``, a file or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
