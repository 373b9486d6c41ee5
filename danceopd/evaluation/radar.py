"""Scores by category around a centre, a line for each contender, in the coordinates of an SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 440
HEIGHT: Final = 300
FEWEST: Final = 3
"""Categories that make an area."""

_RADIUS: Final = 108.0
_OUTSIDE: Final = 13.0  # of a label, beyond the end of its axis
_LONGEST: Final = 12  # letters of a label's line that have room beside the drawing
_RINGS: Final = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Axis:
    """A category: the end of its axis, and its label in lines about `y` that start, centre or end at `x`."""

    end: tuple[float, float]
    x: float
    y: float
    anchor: str
    label: tuple[str, ...]


@dataclass(frozen=True)
class Radar:
    """What a page draws.

    Attributes:
        title: what is drawn.
        summary: the same in words, for who cannot see it.
        scale: what the centre and the rim stand for.
        rings: points of polygons at quarters of the scale.
        axes: the categories.
        lines: points of a polygon, by contender.
        width, height: of the drawing, with its labels.
    """

    title: str
    summary: str
    scale: str
    rings: Sequence[str]
    axes: Sequence[Axis]
    lines: Mapping[str, str]
    width: int = WIDTH
    height: int = HEIGHT


def radar(title: str, series: Mapping[str, Mapping[str, float]]) -> Radar | None:
    """A radar plot of scores by category.

    Args:
        title: what is drawn.
        series: by contender, score by category; the first contender's categories are the axes. Who has scores
            in fewer than three of them gets no line.

    Returns:
        The plot, or None where fewer than three categories leave nothing to see.
    """
    labels = list(next(iter(series.values()), {}))
    values = [value for of in series.values() for value in of.values()]
    if len(labels) < FEWEST:
        return None
    low, high = min(0.0, *values), max(values)
    if high <= low:
        high = low + 1.0

    def place(number: int, share: float, beyond: float = 0.0) -> tuple[float, float]:
        angle = 2 * math.pi * number / len(labels)
        distance = _RADIUS * share + beyond
        return WIDTH / 2 + distance * math.sin(angle), HEIGHT / 2 - distance * math.cos(angle)

    def points(places: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)

    axes = []
    for number, label in enumerate(labels):
        x, y = place(number, 1.0, _OUTSIDE)
        side = x - WIDTH / 2
        anchor = "middle" if abs(side) < 1 else "start" if side > 0 else "end"
        end = place(number, 1.0)
        axes.append(
            Axis((round(end[0], 1), round(end[1], 1)), round(x, 1), round(y, 1), anchor, _lines(label))
        )
    lines = {}
    for name, of in series.items():
        there = [place(i, (of[label] - low) / (high - low)) for i, label in enumerate(labels) if label in of]
        if len(there) >= FEWEST:
            lines[name] = points(there)
    told = [f"{name} {min(of.values()):.3g} to {max(of.values()):.3g}" for name, of in series.items() if of]
    return Radar(
        title,
        f"{title}, {len(labels)} categories: {', '.join(told)}",
        f"{low:.3g} in the middle, {high:.3g} at the rim",
        [points([place(number, share) for number in range(len(labels))]) for share in _RINGS],
        axes,
        lines,
    )


def _lines(label: str) -> tuple[str, ...]:
    """A label in one line, or in two that break where it can be broken."""
    if len(label) <= _LONGEST:
        return (label,)
    breaks = [number + 1 for number, letter in enumerate(label) if letter in " _-" and number]
    middle = min(breaks, key=lambda number: abs(number - len(label) / 2), default=len(label))
    lines = (label[:middle].strip(), label[middle:].strip())
    return tuple(line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…" for line in lines if line)
