"""What can go wrong with a run on the way; wrong settings are a `danceopd.settings.ConfigError`."""

from __future__ import annotations

from pathlib import Path


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or does not belong to this run."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint whose files are not what was written: bits flipped, a file cut short or gone.

    Args:
        file: that is damaged.
        why: what is wrong with it.
    """

    def __init__(self, file: Path, why: str) -> None:
        self.file = file
        self.why = " ".join(why.split()).rstrip(".")
        super().__init__(
            f"checkpoint file '{file}' is damaged ({self.why}): train on, which continues from the one "
            f"before it, or delete the folder '{file.parent}'."
        )

    def __reduce__(self) -> tuple[type, tuple[Path, str]]:  # as it crosses processes
        return type(self), (self.file, self.why)


class OutOfMemoryError(MemoryError):
    """An update or a picture that the device has no room for; the message names the settings to change."""


class DivergedError(FloatingPointError):
    """Training met a loss or gradient that is not finite; the state before that update has been saved."""


class RankError(RuntimeError):
    """Another process of the run has failed or is gone; the message says what to do."""


class RanksDifferError(RankError):
    """The processes of a run hold different weights."""
