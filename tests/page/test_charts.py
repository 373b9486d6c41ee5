from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danceopd.page import Chart, bar_chart, line_chart

NUMBERS = st.floats(1e-9, 1e9)


def points(text: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, _, y in (pair.partition(",") for pair in text.split())]


def test_a_curve_keeps_its_shape() -> None:
    chart = line_chart("Loss", {"a": [(1, 0.0), (2, 5.0), (5, 10.0)]})
    assert points(chart.lines[0].points) == [(0, 100), (25, 50), (100, 0)]
    assert [tick.text for tick in chart.y_ticks] == ["0", "2.5", "5", "7.5", "10"]
    assert [tick.place for tick in chart.y_ticks] == [0, 25, 50, 75, 100]
    assert chart.summary == "Loss over updates 1 to 5: a from 0 to 10"


def test_a_logarithmic_axis_has_powers_of_ten_at_equal_distances() -> None:
    chart = line_chart("Loss", {"a": [(0, 1.0), (1, 0.1), (2, 0.001)]}, logarithmic=True)
    assert [y for _, y in points(chart.lines[0].points)] == pytest.approx([0, 100 / 3, 100], abs=0.01)
    assert [(round(tick.place, 2), tick.text) for tick in chart.y_ticks] == [
        (0.0, "0.001"), (33.33, "0.01"), (66.67, "0.1"), (100.0, "1")
    ]  # fmt: skip
    assert chart.y_label == " (logarithmic)"
    # A loss of exactly 0 has no logarithm.
    assert line_chart("Loss", {"a": [(0, 1.0), (1, 0.0)]}, logarithmic=True).y_label == ""


def test_a_long_curve_is_averaged_and_its_band_keeps_the_peak() -> None:
    curve = [(step, 100.0 if step == 1234 else 1.0) for step in range(1, 5001)]
    (line,) = line_chart("Norm", {"a": curve}, band=True).lines
    assert len(points(line.points)) < 170
    assert points(line.points)[0][0] == 0 and points(line.points)[-1][0] == 100
    assert min(y for _, y in points(line.band)) == 0
    assert min(y for _, y in points(line.points)) > 90


@settings(deadline=None, max_examples=100)
@given(
    values=st.lists(st.lists(NUMBERS, min_size=1, max_size=40), min_size=1, max_size=8),
    logarithmic=st.booleans(),
    band=st.booleans(),
)
def test_curves_and_ticks_stay_on_the_drawing(
    values: list[list[float]], logarithmic: bool, band: bool
) -> None:
    series = {str(place): list(enumerate(curve)) for place, curve in enumerate(values)}
    chart = line_chart("t", series, logarithmic=logarithmic, band=band)
    check_places(chart)
    for line in chart.lines:
        assert all(-0.01 <= number <= 100.01 for point in points(line.points) for number in point)
        assert all(-0.01 <= number <= 100.01 for point in points(line.band) for number in point)


@settings(deadline=None, max_examples=100)
@given(values=st.lists(st.lists(NUMBERS | st.just(0.0), min_size=10, max_size=10), min_size=1, max_size=3))
def test_bars_stand_side_by_side_in_their_bins(values: list[list[float]]) -> None:
    chart = bar_chart("t", {str(place): bins for place, bins in enumerate(values)}, x_label="sigma")
    check_places(chart)
    edges = sorted((bar.left, bar.left + bar.width) for bars in chart.bars.values() for bar in bars)
    assert all(end <= start + 1e-6 for (_, end), (start, _) in pairwise(edges))
    assert all(0 <= bar.top <= 100 for bars in chart.bars.values() for bar in bars)
    highest = max(max(bins) for bins in values)
    tallest = min((bar.top, bar.label) for bars in chart.bars.values() for bar in bars)
    assert tallest[0] == pytest.approx(0 if highest else 100)


def check_places(chart: Chart) -> None:
    assert 1 <= len(chart.x_ticks) <= 11 and 1 <= len(chart.y_ticks) <= 11
    assert all(-1e-6 <= tick.place <= 100 + 1e-6 for tick in (*chart.x_ticks, *chart.y_ticks))
    assert all(len(tick.text) <= 8 for tick in (*chart.x_ticks, *chart.y_ticks))
