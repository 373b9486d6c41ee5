"""Benchmarks by the name that the command line gives them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, get_args, get_type_hints

from danceopd.evaluation.base import Benchmark
from danceopd.evaluation.benchmarks.editeval import open_editeval
from danceopd.evaluation.benchmarks.emuedit import open_emuedit
from danceopd.evaluation.benchmarks.gedit import open_gedit
from danceopd.evaluation.benchmarks.geneval import open_geneval
from danceopd.evaluation.benchmarks.imgedit import open_imgedit
from danceopd.evaluation.benchmarks.shapesworld import open_shapesworld
from danceopd.settings import nearest

BENCHMARKS: Final[Mapping[str, Callable[..., Benchmark]]] = {
    "geneval": open_geneval,
    "gedit": open_gedit,
    "imgedit": open_imgedit,
    "emuedit": open_emuedit,
    "editeval": open_editeval,
    "shapesworld": open_shapesworld,
}
"""What opens a copy of each; all take the copy's folder, and options by their names."""

_ALSO: Final = {"evaledit": "editeval"}


def known_benchmark(name: str) -> str:
    """The name by which `BENCHMARKS` has a benchmark.

    Raises:
        ValueError: it has none of that name.
    """
    name = _ALSO.get(name, name)
    if name not in BENCHMARKS:
        raise ValueError(f"benchmark '{name}' is unknown: {nearest(name, BENCHMARKS)}")
    return name


def open_benchmark(name: str, folder: str | Path, **options: Any) -> Benchmark:
    """Open and check a user's copy of a benchmark; nothing is downloaded.

    Args:
        name: one of `BENCHMARKS`.
        folder: the copy, laid out as it is published.
        options: of that benchmark, such as ``language="cn"`` of GEdit-Bench; see its ``open_...`` function.

    Raises:
        ValueError: the name or an option is unknown; or, as `danceopd.data.DataError`, the copy is not whole,
            with all that is wrong in one message.
        ImportError: a package that reads the copy is not installed.
    """
    name = known_benchmark(name)
    known = [option for option in inspect.signature(BENCHMARKS[name]).parameters if option != "folder"]
    for option in options:
        if option not in known:
            cure = nearest(option, known) if known else "it has none."
            raise ValueError(f"'{option}' is no option of the benchmark {name}: {cure}")
    hints = get_type_hints(BENCHMARKS[name])
    given = {option: _as(hints[option], option, value) for option, value in options.items()}
    return BENCHMARKS[name](Path(folder).expanduser(), **given)


def _as(hint: Any, option: str, value: Any) -> Any:
    """An option's value as its opener takes it; a command line gives texts."""
    kinds = get_args(hint) or (hint,)
    if Path in kinds and isinstance(value, str):
        return Path(value).expanduser()
    if bool in kinds or int in kinds:
        kind, called = (bool, "true or false") if bool in kinds else (int, "a whole number")
        if kind is bool and value in ("true", "false"):
            value = value == "true"
        elif kind is int and isinstance(value, str) and value.isdecimal():
            value = int(value)
        if type(value) is not kind:
            raise ValueError(f"option '{option}' must be {called}, but got {value!r}.")
    return value
