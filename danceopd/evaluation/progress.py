"""What a person sees of a long loop: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

_SECONDS_BETWEEN_LINES: Final = 10.0


@contextmanager
def track(what: str, total: int, done: int = 0, *, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """Show on stderr how far a loop is and what time is left, smoothed.

    Args:
        what: is counted, such as "images".
        total: how many there are.
        done: how many there were before the loop; they do not count for its speed.
        shown: whether anything is shown.

    Yields:
        What is told the number that were finished just now.
    """
    # Imported late: rich takes a while, and a library that draws one image shall not wait for it.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if not shown or total == done:
        yield lambda _: None
    elif sys.stderr.isatty():
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn())
        with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
            task = bar.add_task(what, total=total, completed=done)
            yield lambda count: bar.advance(task, count)
    else:
        yield _Lines(what, total, done)


class _Lines:
    def __init__(self, what: str, total: int, done: int) -> None:
        self._what, self._total, self._first, self._done = what, total, done, done
        self._began = self._line_at = time.monotonic()

    def __call__(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if now >= self._line_at or self._done == self._total:
            self._line_at = now + _SECONDS_BETWEEN_LINES
            seconds = (now - self._began) / max(1, self._done - self._first)
            left = timedelta(seconds=round(seconds * (self._total - self._done)))
            print(f"{self._what} {self._done}/{self._total}  {left} left", file=sys.stderr, flush=True)
