"""Every row tried before a run starts, so that no row ends it later."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, Final, Protocol, runtime_checkable

from rich.console import Console
from rich.progress import Progress

from danceopd.data.errors import DataError
from danceopd.data.rows import Rows
from danceopd.families.base import Example, Examples

_SPAN: Final = 16  # rows per task


def check_rows(
    rows: Rows,
    *,
    look: Callable[[Example], Any] | None = None,
    max_prompt_characters: int = 4000,
    threads: int | None = None,
    progress: bool = True,
) -> list[Any]:
    """Read every prompt and decode every image of ``rows``, all the way.

    Args:
        rows: what `load_rows` returned.
        look: what to note of each row while its images are open; a ValueError of it is a problem of the row.
            Called from several threads.
        max_prompt_characters: a longer prompt is an error; text encoders read far less and drop the rest.
        threads: images decoded at the same time; one per core and a few more when None.
        progress: show a bar on stderr, where that is a terminal.

    Returns:
        What ``look`` returned for each row, or None for each without one.

    Raises:
        DataError: rows cannot be used; the message tells the first and how many more there are.
    """
    bar = Progress(console=Console(stderr=True), disable=not (progress and sys.stderr.isatty()))
    problems: dict[int, str] = {}
    seen: dict[int, Any] = {}
    pool = ThreadPoolExecutor(threads)
    try:
        with bar:
            task = bar.add_task(f"checking {rows.name}", total=len(rows))
            starts = range(0, len(rows), _SPAN)
            spans = [range(start, min(start + _SPAN, len(rows))) for start in starts]
            work = {pool.submit(_look_at, rows, span, look, max_prompt_characters): span for span in spans}
            for done in as_completed(work):
                noted, found = done.result()
                seen.update(noted)
                problems.update(found)
                bar.advance(task, len(work[done]))
    finally:
        # Ctrl-C must not wait for all that was asked for.
        pool.shutdown(cancel_futures=True)
    if problems:
        first = problems[min(problems)]
        others = len(problems) - 1
        more = f"; {others} more row{'s' if others > 1 else ''} of {rows.name} cannot be used either."
        raise DataError(first.rstrip(".") + more if others else first)
    return [seen[row] for row in range(len(rows))]


@runtime_checkable
class ChecksTargets(Protocol):
    """Rows that know whether each of them has a target."""

    def check_targets(self) -> None:
        """Raise DataError where one has none."""
        ...


def check_targets(data: Iterable[Examples]) -> None:
    """See that every row of every route has a target, for methods that learn from images.

    Raises:
        DataError: a row has none; the message names it.
    """
    for examples in data:
        if isinstance(examples, ChecksTargets):
            examples.check_targets()
            continue
        for row in range(len(examples)):
            if examples[row].target is None:
                raise DataError(f"row {row + 1} has no target, which is learned from: give every row one.")


def check_masks(data: Iterable[Examples]) -> None:
    """See that some row has a mask, for losses that weigh what lies outside.

    Raises:
        DataError: no row of any route has one.
    """
    for examples in data:
        # Rows that know do not need to be read.
        known: bool | None = getattr(examples, "has_masks", None)
        if known is None:
            known = any(examples[row].mask is not None for row in range(len(examples)))
        if known:
            return
    raise DataError(
        "unedited_weight is given, but no row of any route has a mask: add a column 'mask', or drop the key."
    )


def _look_at(
    rows: Rows, span: range, look: Callable[[Example], Any] | None, max_prompt_characters: int
) -> tuple[dict[int, Any], dict[int, str]]:
    noted, found = {}, {}
    for row in span:
        try:
            example = rows[row]
            length = len(example.prompt)
            if length > max_prompt_characters:
                raise DataError(
                    f"the prompt of {rows.describe(row)} has {length} characters but at most "
                    f"{max_prompt_characters} are read: shorten it, or raise max_prompt_characters."
                )
            noted[row] = look(example) if look else None
        except DataError as error:
            found[row] = str(error)
        except ValueError as error:
            found[row] = f"{rows.describe(row)} cannot be used: {error}"
    return noted, found
