"""What is wrong with a run's data."""

from __future__ import annotations


class DataError(ValueError):
    """Rows, or an image among them, that cannot be used; the message names the file, the row and the cure."""
