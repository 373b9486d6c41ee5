"""What can go wrong with a run on the way; wrong settings are a `danceopd.settings.ConfigError`."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or does not belong to this run."""


class DivergedError(FloatingPointError):
    """Training met a loss or gradient that is not finite; the state before that update has been saved."""
