"""What is wrong with a run's data."""

from __future__ import annotations

from pathlib import PurePath

_LONGEST = 160  # characters; enough for a path


class DataError(ValueError):
    """Rows, or an image among them, that cannot be used; the message names the file, the row and the cure."""


def shown(value: object) -> str:
    """A value as a message quotes it: on one line, and cut where it is long."""
    text = repr(str(value) if isinstance(value, PurePath) else value)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."
