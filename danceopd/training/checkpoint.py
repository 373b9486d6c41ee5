"""Checkpoints in safetensors: a folder that is whole or not there, and that tells when it was damaged later.

A checkpoint is written into a hidden folder next to its place, flushed to the disk, and then renamed. A
process killed at any moment leaves at most the hidden folder, which the next run removes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from danceopd.files import keeping_mode, sha256_of
from danceopd.training.errors import CheckpointError, DamagedCheckpointError

FORMAT = 1
_OWN = "sha256_of_the_rest"
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
        made_of: contents and versions, see `danceopd.training.provenance`; empty in checkpoints from before
            they were kept.
    """

    step: int
    student: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    ema: Mapping[str, Tensor] | None
    run: Mapping[str, Any]
    made_of: Mapping[str, Any] = field(default_factory=dict)


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
                with keeping_mode(path):
                    save_file(
                        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path
                    )
                digests[path.name] = sha256_of(path)
                _flush(path)
        state = {
            "format": FORMAT,
            "step": checkpoint.step,
            "sha256": digests,
            "run": checkpoint.run,
            "made_of": checkpoint.made_of,
        }
        state[_OWN] = _digest_of(state)
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
        DamagedCheckpointError: if a file of it is missing or not what was written; the message names it.
        CheckpointError: if it is no checkpoint, may not be read, or was written by a newer danceopd.
    """
    path = Path(path)
    file = path / "state.json"
    try:
        state = _read_state(file)
    except PermissionError as error:
        raise _closed(error) from None
    except OSError as error:
        if _NAME.fullmatch(path.name) and path.is_dir():
            raise DamagedCheckpointError(file, error.strerror or str(error)) from None
        raise CheckpointError(
            f"'{path}' is no checkpoint: it holds no state.json; name a folder such as step-00000300."
        ) from None
    parts = {}
    for name, digest in state["sha256"].items():
        file = path / name
        try:
            if sha256_of(file) != digest:
                raise DamagedCheckpointError(file, "its content has changed since it was written")
            parts[file.stem] = load_file(file)
        except PermissionError as error:
            raise _closed(error) from None
        except (OSError, SafetensorError) as error:
            raise DamagedCheckpointError(file, getattr(error, "strerror", None) or str(error)) from None
    return Checkpoint(
        state["step"],
        parts["student"],
        parts["optimizer"],
        parts.get("ema"),
        state["run"],
        state.get("made_of", {}),
    )


def set_aside(path: Path) -> Path:
    """Rename a damaged checkpoint so that it counts no more, and return where it lies now."""
    place = path.with_name(f"damaged-{path.name}")
    while place.exists():
        place = place.with_name(f"{place.name}-again")
    return path.rename(place)


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
    content = path.read_bytes()
    try:
        state = json.loads(content)
        # Checkpoints from before the file told its own digest are taken as they are.
        if ("made_of" in state or _OWN in state) and state.pop(_OWN, None) != _digest_of(state):
            raise ValueError("its content has changed since it was written")
        newer = isinstance(state["format"], int) and state["format"] > FORMAT
        whole = {"student.safetensors", "optimizer.safetensors"} <= set(state["sha256"])
        fits = state["format"] == FORMAT and state["step"] == int(path.parent.name.partition("-")[2])
        if not newer and not (whole and fits):
            raise ValueError("it does not fit its folder or this version of danceopd")
        if not isinstance(state["run"], dict):
            raise ValueError("it holds no settings of the run")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpointError(path, str(error)) from None
    if newer:
        raise CheckpointError(
            f"checkpoint '{path.parent}' was written by a newer danceopd (format {state['format']}): install "
            "that one."
        )
    return dict(state)


def _digest_of(state: Mapping[str, Any]) -> str:
    return sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _closed(error: PermissionError) -> CheckpointError:
    return CheckpointError(
        f"checkpoint file '{error.filename}' may not be read ({error.strerror}): change its permissions."
    )


def _flush(path: Path) -> None:
    """Wait until ``path``, a file or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
