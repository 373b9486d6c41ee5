"""The folder of a run: what is in it, whether it can be written, and who may write to it."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from danceopd.settings import ConfigError
from danceopd.training.checkpoint import list_checkpoints

CACHE: Final = "cache"
CHECKPOINTS: Final = "checkpoints"
METRICS: Final = "metrics.jsonl"
CONFIG: Final = "config.yaml"
GRIDS: Final = "grids"
TEACHERS: Final = ".teachers.safetensors"  # in GRIDS: what the teachers drew
PROCESSES: Final = "processes"
"""How many share the run, among the settings that checkpoints store; 1 where it is not told."""


def check_folder_writable(folder: Path, key: str = "output_dir") -> None:
    """Raise ConfigError, naming ``key``, unless ``folder`` can be written, or made; nothing is made."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise _unusable(folder, f"'{place}' is a file", key)
    try:
        # The one question that permissions, full disks and read-only mounts all answer; it leaves no trace.
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise _unusable(folder, f"'{place}': {error.strerror}", key) from None


@contextmanager
def open_folder(folder: Path) -> Iterator[None]:
    """Make ``folder`` and lock it against other trainings; the lock ends with the process at the latest."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise _unusable(folder, error.strerror or str(error)) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"output_dir '{folder}' is in use by another training process: wait for it, or name another "
                "folder."
            ) from None
        yield
    finally:
        os.close(descriptor)


def has_begun(folder: Path) -> bool:
    """Whether there is an update to be lost; without one a folder is as good as new, whatever its config."""
    if list_checkpoints(folder / CHECKPOINTS):
        return True
    try:
        with (folder / METRICS).open("rb") as lines:
            return next(lines, b"").endswith(b"\n")
    except FileNotFoundError:
        return False


def forget_what_never_began(folder: Path) -> None:
    """Delete what teachers drew for a run without an update: its config may have named others."""
    if not has_begun(folder):
        (folder / GRIDS / TEACHERS).unlink(missing_ok=True)


def _unusable(folder: Path, why: str, key: str = "output_dir") -> ConfigError:
    return ConfigError(f"{key} '{folder}' cannot be written ({why}): name a folder that can.")
