"""What is wrong with a run's data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Final

_LONGEST: Final = 160  # characters; enough for a path
_MOST: Final = 20


class DataError(ValueError):
    """Rows, or an image among them, that cannot be used; the message names the file, the row and the cure."""


def shown(value: object) -> str:
    """A value as a message quotes it: on one line, and cut where it is long."""
    text = repr(str(value) if isinstance(value, PurePath) else value)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."


def listed(items: Sequence[str]) -> str:
    """A list as a message quotes it, cut after 20 items with a count of the others."""
    more = len(items) - _MOST
    return "; ".join(items[:_MOST]) + (f"; and {more} more" if more > 0 else "")
