"""The steps of a check as they pass: a table on a terminal, a line for each elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

_STEP = 10  # columns of the longest step's name


def tell_step(step: str, found: Sequence[str]) -> None:
    """Print what a step has found: one row each on a terminal, wrapped to its width; else all in one line."""
    console = Console(highlight=False)
    if not console.is_terminal:
        typer.echo(f"✓ {step:{_STEP}} {'; '.join(found)}")
        return
    table = Table.grid(padding=(0, 1, 0, 0), expand=True)
    table.add_column(width=1, style="green")
    table.add_column(width=_STEP, style="bold", no_wrap=True)
    table.add_column(width=1, style="dim")
    table.add_column(ratio=1, overflow="fold")
    for number, text in enumerate(found):
        head = ("", "") if number else ("✓", step)
        table.add_row(*head, "·" if len(found) > 1 else "", Text(text))
    console.print(table)


def tell_nothing(step: str, found: Sequence[str]) -> None:
    """Keep what a step has found for the report at the end."""
