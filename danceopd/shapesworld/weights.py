"""Weights files of this world: the experts that ship, and how files are found, read and written.

A weights file is safetensors: the tensors of a whole model under their own names, or those of a LoRA under
the names that diffusers gives them (see `lora`). Its metadata says which (`kind`: "full" or "lora") and, of a
LoRA, the weights it belongs on (`base`: a shipped expert's name, or a path that starts at the file's own
folder).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from danceopd.files import write_tensors

FOLDER = Path(__file__).with_name("experts")
EXPERTS = ("base", "local", "global", "edit")
STUDENT_FILE = "student.safetensors"

Fingerprint = tuple[Path, int, int, int]


@dataclass(frozen=True)
class Weights:
    """A weights file in memory.

    Attributes:
        path: where it was read.
        tensors: float32, by name.
        metadata: texts by name, as in the file.
    """

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str]

    @property
    def is_lora(self) -> bool:
        """Whether these are a LoRA's factors and not a whole model."""
        return any(".lora_" in name for name in self.tensors)


def find_weights(name_or_path: str) -> Path:
    """The safetensors file behind a shipped expert's name, a file, or the folder of a finished run.

    Raises:
        ValueError: nothing is there, or the run has not exported a student yet.
    """
    if name_or_path in EXPERTS:
        return FOLDER / f"{name_or_path}.safetensors"
    path = Path(name_or_path)
    if path.is_dir():
        if (path / STUDENT_FILE).is_file():
            return path / STUDENT_FILE
        raise ValueError(f"{name_or_path!r} holds no {STUDENT_FILE}; finish its training first.")
    if path.is_file():
        return path
    near = difflib.get_close_matches(name_or_path, EXPERTS, n=1)
    cure = f"did you mean {near[0]!r}?" if near else "give a file, the folder of a run, or one of them."
    raise ValueError(f"{name_or_path!r} is no file and no shipped expert ({', '.join(EXPERTS)}); {cure}")


def fingerprint(path: Path) -> Fingerprint:
    """What stays the same as long as the file does, without reading it.

    Raises:
        ValueError: the file is not there.
    """
    try:
        about = path.stat()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); restore the file.") from error
    return path.resolve(), about.st_ino, about.st_mtime_ns, about.st_size


def portable_name(name_or_path: str) -> str:
    """What another file may call these weights: a shipped expert's name, or a path from the root."""
    return name_or_path if name_or_path in EXPERTS else str(find_weights(name_or_path).resolve())


def read_weights(name_or_path: str) -> Weights:
    """The weights behind a name or a path; see `find_weights` for what is accepted.

    Raises:
        ValueError: as `find_weights`, or the file is not whole safetensors.
    """
    path = find_weights(name_or_path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).to(torch.float32) for name in file.keys()}  # noqa: SIM118
            return Weights(path, tensors, dict(file.metadata() or {}))
    except (SafetensorError, OSError) as error:
        reason = str(error).rstrip(".")
        raise ValueError(f"{path} cannot be read as safetensors ({reason}); replace the file.") from error


def write_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Path:
    """Write a weights file so that it is either whole or not there, and return its path.

    Raises:
        OSError: the file cannot be written.
    """
    return write_tensors(path, tensors, metadata)
