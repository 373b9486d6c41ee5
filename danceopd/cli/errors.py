"""How a command's failure is told: in one sentence, and by its exit code."""

from __future__ import annotations

import sys
from dis import opname
from json import JSONDecodeError
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup


class OneSentenceErrors(TyperGroup):
    """The commands, with a user's mistake told in one sentence instead of a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for, and end the process with a code of its own where it fails."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            number = getattr(interrupt, "number", None)  # of `danceopd.signals.Interrupted`
            if number is None:
                raise
            typer.echo(f"danceopd: {interrupt}", err=True)
            raise typer.Exit(128 + number) from None
        except (ValueError, OSError, ImportError, FloatingPointError, MemoryError, RuntimeError) as error:
            if ctx.params.get("debug") or _is_a_bug(error):
                raise
            _fail(error)


def _is_a_bug(error: Exception) -> bool:
    """Whether the error is ours, so that its traceback is worth more than a sentence."""
    if isinstance(error, ImportError):
        return (error.name or "").startswith("danceopd")
    if type(error) in (ValueError, JSONDecodeError):
        return not _was_worded(error)
    told = type(error).__module__.startswith("danceopd") or type(error).__name__ == "OutOfMemoryError"
    return isinstance(error, RuntimeError) and not told


def _was_worded(error: Exception) -> bool:
    """Whether a ``raise`` outside Python's own library made the error, and so has a sentence for people.

    Otherwise ``int()``, the unpacking of a tuple, ``json`` and the like have met what nobody expected there.
    Subclasses of ValueError say themselves what they are about.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return True
    module = str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
    instruction = opname[trace.tb_frame.f_code.co_code[trace.tb_lasti]]
    return instruction == "RAISE_VARARGS" and module not in sys.stdlib_module_names


def _fail(error: Exception) -> NoReturn:
    if isinstance(error, OSError) and error.strerror:
        where = f"'{error.filename}': " if error.filename else ""
        text = f"{where}{error.strerror}."
    elif isinstance(error, ModuleNotFoundError) and error.name:
        text = f"the package '{error.name}' is not installed: pip install {error.name}."
    elif isinstance(error, (RuntimeError, MemoryError)) and not type(error).__module__.startswith("danceopd"):
        text = "out of memory: lower batch_size (raise gradient_accumulation_steps) or rollout_batch_size."
    else:
        text = " ".join(str(error).split()) or type(error).__name__
    typer.echo(f"danceopd: {text}", err=True)
    raise typer.Exit(1 if isinstance(error, (FloatingPointError, MemoryError, RuntimeError)) else 2)
