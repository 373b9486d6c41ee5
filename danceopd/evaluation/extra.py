"""Packages of the extra `eval`, which are imported when they are used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needed_for(what: str) -> Iterator[None]:
    """Say in one sentence which package ``what`` needs when an import inside finds none.

    Raises:
        ImportError: a package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ImportError(
            f'{what} needs the package {error.name}, which is not installed: pip install "danceopd[eval]".',
            name=error.name,
        ) from None
