"""The help of a command that takes a config, with every key of it."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand


class WithSettings(TyperCommand):
    """A command whose help ends with all keys of the config."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the usual help, and then the keys."""
        super().format_help(ctx, formatter)
        from danceopd.training.settings_help import describe_settings

        console = Console(file=sys.stdout, highlight=False)
        console.print(
            "Keys of CONFIG, a YAML file. KEY=VALUE sets one on the command line: dots go into mappings, "
            "numbers into lists, the value is YAML.",
            style="bold",
        )
        for group in describe_settings():
            console.print()
            console.print(Rule(Text(group.title, "bold"), align="left", characters="─"))
            if group.text:
                console.print(Padding(Text(group.text, "dim"), (0, 0, 0, 2)))
            table = Table.grid(padding=(0, 2, 0, 0))
            table.add_column(no_wrap=True, style="cyan")
            table.add_column(ratio=1)
            for key in group.keys:
                table.add_row(f"  {key.name}", Text.assemble(key.text, " ", (f"[{key.note}]", "dim")))
            console.print(table)
