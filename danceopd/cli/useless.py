"""Options that would change nothing, refused before anything is done."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Final

import typer

if TYPE_CHECKING:
    from danceopd.evaluation import Benchmark

_USED_BY: Final = {"clip": ("clip", "diversity"), "dino": ("dino", "diversity"), "lpips": ("lpips",)}
"""Metrics that need the weights of an option."""

_OF_EDITS: Final = ("pixels", "lpips", "dino")


def given_options(context: typer.Context) -> list[str]:
    """Names of the parameters on the command line, those with their default value too."""
    sources = ((name, context.get_parameter_source(name)) for name in context.params)
    return [name for name, source in sources if source is not None and source.name == "COMMANDLINE"]


def refuse(names: Iterable[str], cure: str) -> None:
    """Raise ValueError for the first of some options, if any."""
    for name in names:
        raise ValueError(f"--{name.replace('_', '-')} {cure}")


def check_metrics(metrics: Collection[str], weights: Collection[str], benchmark: Benchmark) -> None:
    """Whether what is to be measured can be, and by all weights.

    Args:
        metrics: as ``--metrics`` lists them; empty for all that can be measured.
        weights: of clip, dino and lpips those whose folder is given.
        benchmark: what is measured.

    Raises:
        ValueError: a metric or a folder would be of no use.
    """
    cases = benchmark.cases()
    edits = any(case.sources for case in cases)
    useless: tuple[str, ...] = () if edits else _OF_EDITS
    if not any(case.about.get("world") == "shapesworld" for case in cases):
        useless += ("fulfilled",)
    for name in metrics:
        if name in useless:
            other = "for ShapesWorld" if name == "fulfilled" else "about edits"
            raise ValueError(f"--metrics {name} is {other}, but the benchmark is {benchmark.name}: drop it.")
    for name in weights:
        users = _USED_BY[name]
        if metrics and not set(users) & set(metrics):
            raise ValueError(
                f"--{name} is of no use with --metrics {','.join(metrics)}: add {' or '.join(users)}, "
                "or drop it."
            )
        if not edits and name == "lpips":
            raise ValueError(f"--lpips is about edits, but the benchmark is {benchmark.name}: drop it.")
