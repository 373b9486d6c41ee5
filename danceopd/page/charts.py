"""Curves and bars in the coordinates of a drawing 100 wide and 100 high, y down as in SVG.

A page stretches the drawing to the room that it has and writes the texts beside it in its own size, so that
they are read on a phone as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Point = tuple[float, float]

_PLACES = 160  # of a curve, whatever its length


@dataclass(frozen=True)
class Tick:
    """A number on an axis; `place` is in percent from the left or from the bottom."""

    place: float
    text: str


@dataclass(frozen=True)
class Line:
    """A curve: `points` of an SVG polyline, and of the polygon between its extremes, where that is drawn."""

    label: str
    points: str
    band: str = ""


@dataclass(frozen=True)
class Bar:
    """A bar that stands on the axis; `label` tells its value."""

    left: float
    width: float
    top: float
    label: str


@dataclass(frozen=True)
class Chart:
    """What a page draws.

    Attributes:
        title: what is drawn.
        summary: the same in words, for who cannot see it.
        x_label, y_label: what the axes count.
        x_ticks, y_ticks: their numbers.
        lines, bars: each series has its place in the colours of the page; bars by series.
    """

    title: str
    summary: str
    x_label: str
    y_label: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    lines: Sequence[Line] = ()
    bars: Mapping[str, Sequence[Bar]] = field(default_factory=dict)


def line_chart(
    title: str,
    series: Mapping[str, Sequence[Point]],
    *,
    x_label: str = "updates",
    y_label: str = "",
    logarithmic: bool = False,
    band: bool = False,
) -> Chart:
    """Curves over a common axis; long ones are averaged to some 160 places.

    Args:
        title: what is drawn.
        series: points by label, x rising; at least one point in all.
        x_label: what the axes count.
        y_label: the same of y.
        logarithmic: of y, where all values are above 0; else linear.
        band: show least and largest values too, which averages hide.
    """
    thin = {label: _averaged(points) for label, points in series.items() if points}
    logarithmic = logarithmic and all(low > 0 for places in thin.values() for _, _, low, _ in places)
    lows = [low if band else mean for places in thin.values() for _, mean, low, _ in places]
    highs = [high if band else mean for places in thin.values() for _, mean, _, high in places]
    low, high = min(lows), max(highs)
    if not logarithmic:
        low = min(0.0, low)
    if high <= low:
        low, high = (low / 2, low * 2) if logarithmic else (low, low + 1.0)
    first = min(places[0][0] for places in thin.values())
    last = max(max(places[-1][0] for places in thin.values()), first + 1)

    def across(x: float) -> float:
        return 100 * (x - first) / (last - first)

    def up(y: float) -> float:
        if logarithmic:
            return 100 * math.log(y / low) / math.log(high / low)
        return 100 * (y - low) / (high - low)

    def path(points: Sequence[Point]) -> str:
        return " ".join(f"{across(x):.2f},{100 - up(y):.2f}" for x, y in points)

    lines = []
    for label, places in thin.items():
        around = [(x, least) for x, _, least, _ in places] + [(x, most) for x, _, _, most in reversed(places)]
        lines.append(Line(label, path([(x, mean) for x, mean, _, _ in places]), path(around) if band else ""))
    told = [f"{label} from {_short(p[0][1])} to {_short(p[-1][1])}" for label, p in thin.items()]
    ticks = _logarithmic_ticks(low, high) if logarithmic else _ticks(low, high)
    return Chart(
        title,
        f"{title} over {x_label} {_short(first)} to {_short(last)}: {', '.join(told)}",
        x_label,
        y_label + (" (logarithmic)" if logarithmic else ""),
        [Tick(across(x), _short(x)) for x in _ticks(first, last)],
        [Tick(up(y), _short(y)) for y in ticks],
        lines=lines,
    )


def bar_chart(
    title: str, series: Mapping[str, Sequence[float]], *, x_label: str, y_label: str = "", x_last: float = 1.0
) -> Chart:
    """Histograms over 0 .. `x_last`, each of as many equal bins as it has values, side by side in a bin.

    Args:
        title: what is drawn.
        series: values at least 0 by label, as many in each.
        x_label: what the axes count.
        y_label: the same of y.
        x_last: where the last bin ends.
    """
    high = max((value for values in series.values() for value in values), default=0.0) or 1.0
    count = max(len(values) for values in series.values())
    width = 100 / count * 0.84 / len(series)
    bars = {}
    for place, (label, values) in enumerate(series.items()):
        bars[label] = [
            Bar(
                left=100 / count * (bin + 0.08) + place * width,
                width=width,
                top=100 * (1 - value / high),
                label=f"{label}, {x_label} {bin * x_last / count:g} to {(bin + 1) * x_last / count:g}: "
                f"{_short(value)}",
            )
            for bin, value in enumerate(values)
        ]
    told = [f"{label} is highest at bin {_peak(values) + 1} of {count}" for label, values in series.items()]
    return Chart(
        title,
        f"{title} by {x_label}: {', '.join(told)}",
        x_label,
        y_label,
        [Tick(100 * x / x_last, _short(x)) for x in _ticks(0.0, x_last)],
        [Tick(100 * y / high, _short(y)) for y in _ticks(0.0, high)],
        bars=bars,
    )


def _averaged(points: Sequence[Point]) -> list[tuple[float, float, float, float]]:
    """(x, mean, least, largest) of blocks of points that follow each other; the first and the last x stay."""
    size = max(1, math.ceil(len(points) / _PLACES))
    found = []
    for start in range(0, len(points), size):
        block = points[start : start + size]
        values = [y for _, y in block]
        x = block[0][0] if start == 0 else block[-1][0]
        found.append((x, math.fsum(values) / len(values), min(values), max(values)))
    return found


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers from `low` to `high`."""
    raw = (high - low) / 4
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.99)
    first = math.ceil(low / step - 1e-9)
    return [step * number for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _logarithmic_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, and twice and five times these where there are few."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5), tuple(range(1, 10))):
        found = [f * 10.0**d for d in decades for f in factors if low <= f * 10.0**d <= high]
        if len(found) >= 3:
            return found[:: math.ceil(len(found) / 6)]
    return [low, high]


def _peak(values: Sequence[float]) -> int:
    return max(range(len(values)), key=lambda bin: values[bin])


def _short(value: float) -> str:
    """A number in a few characters."""
    if value != 0 and abs(value) < 1e-3:
        digits, _, power = f"{value:.2e}".partition("e")
        return f"{float(digits):g}e{int(power)}"
    if abs(value) >= 1e6:
        return f"{value / 1e6:.4g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:.4g}k"
    return f"{value:.4g}"
