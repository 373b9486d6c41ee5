"""Commands that take a config: what their help says of its keys, and of a key that was given as an option."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand


class TakesSettings(TyperCommand):
    """A command that tells who writes a key of the config as an option how it is written."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command line.

        Raises:
            ValueError: it has a key of the config with dashes.
        """
        options = {name for param in self.params for name in (*param.opts, *param.secondary_opts)}
        options |= set(self.get_help_option_names(ctx))
        for argument, following in zip(args, [*args[1:], ""], strict=True):
            name, equals, value = argument.partition("=")
            if not name.startswith("--") or name in options or ctx.resilient_parsing:  # a shell completes
                continue
            from danceopd.training import RunConfig

            key = name[2:].replace("-", "_")
            known: Any = RunConfig
            if (top := known.__pydantic_fields__.get(key.partition(".")[0])) is not None:
                if not equals:  # what follows may be another option, or, after a switch, the file
                    value = "" if top.annotation is bool or following.startswith("--") else following
                raise ValueError(
                    f"'{argument}' is a key of the config and no option: write {key}={value or 'VALUE'}, "
                    "without dashes."
                )
        return super().parse_args(ctx, args)


class WithSettings(TakesSettings):
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
