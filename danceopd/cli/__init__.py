"""The command line: ``danceopd info | demo | train | check | sample | eval | report | export``.

A user's mistake ends in one sentence on stderr and exit code 2, training that fails on the way in exit
code 1, and training stopped by a signal in 128 plus its number. ``--debug`` shows the traceback instead.

torch takes seconds to import: the commands import what they need, so that help is there at once.
"""

from __future__ import annotations

from typing import Annotated

import typer

from danceopd.cli import check, demo, evaluate, export, info, report, sample, train
from danceopd.cli.errors import OneSentenceErrors
from danceopd.cli.quiet import quiet_imports
from danceopd.cli.settings_help import TakesSettings, WithSettings

__all__ = ["app", "main"]

app = typer.Typer(
    cls=OneSentenceErrors,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _danceopd(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="DANCEOPD_DEBUG", help="Show tracebacks of errors.")
    ] = False,
) -> None:
    """Distil several frozen flow-matching experts into one student, on its own trajectories."""
    if not debug:
        quiet_imports()


# In the order of the help.
app.command()(info.info)
app.command()(demo.demo)
app.command(cls=WithSettings)(train.train)
app.command(cls=TakesSettings)(check.check)
app.command()(sample.sample)
app.command("eval")(evaluate.evaluate)
app.command()(report.report)
app.command()(export.export)


def main() -> None:
    """Entry point of the ``danceopd`` command."""
    app(prog_name="danceopd")
