"""What differs inside: the field gap by noise level, and guidance absorbed against guidance added."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .arms import label_of, place_of, settings_of
from .drawing import (
    Drawing,
    add_legend,
    draw_curve,
    grounds_of,
    least_ratio,
    new_figure,
    save,
    share_of,
    tidy,
)
from .guidance import compositions
from .palette import colours_of, markers_of
from .records import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_gaps(runs: Sequence[Run], folder: Path) -> Iterator[Drawing]:
    """Of the methods, and of the laws of queries."""
    for suite in ("main", "query"):
        mine = [run for run in runs if run.suite == suite and run.budget == "updates" and run.gap]
        for setting in settings_of(mine):
            yield _gap([run for run in mine if run.setting == setting], suite, setting, folder)


def _gap(runs: Sequence[Run], suite: str, setting: str, folder: Path) -> Drawing:
    """Error over sigma, a panel per route."""
    routes = list(dict.fromkeys(route for run in runs for route in run.gap))
    arms = sorted({run.arm for run in runs}, key=place_of)
    colours, markers = colours_of(arms, suite), markers_of(arms, suite)
    figure = new_figure(len(routes), width=4.4, height=3.4)
    panels: Any = figure.subplots(1, len(routes), sharey=True, squeeze=False)[0]
    for panel, route in zip(panels, routes, strict=True):
        panel.set_yscale("log")
        tidy(panel)
        for arm in arms:
            some = [run.gap[route] for run in runs if run.arm == arm and route in run.gap]
            if some:
                errors = np.asarray([gap["error"] for gap in some], float)
                label = label_of(arm, suite)
                draw_curve(panel, some[0]["sigma"], errors, colours[arm], markers[arm], label)
        panel.set_title(route, fontsize=10)
        panel.set_xlabel("sigma, from clean to noise", fontsize=9)
    panels[0].set_ylabel("mean squared error of velocity", fontsize=9)
    add_legend(figure, panels[0])
    note = "The student against its teacher on the student's own rollouts at the end; band over seeds."
    title = f"field gap by noise level, {suite}, {setting}"
    return save(figure, folder, f"gap-{suite}-{setting}", title, note)


def draw_guidance(runs: Sequence[Run], folder: Path) -> Iterator[Drawing]:
    """Scores over (alpha, beta), and how varied images are there."""
    for setting in settings_of(runs):
        if cells := compositions(runs, setting):
            yield _surfaces(setting, cells, folder)


def _surfaces(setting: str, cells: Mapping[tuple[float, float], Sequence[Run]], folder: Path) -> Drawing:
    alphas, betas = (sorted({scales[axis] for scales in cells}) for axis in (0, 1))
    grounds = grounds_of([run for found in cells.values() for run in found])

    def surface(of: Callable[[Run], float]) -> Any:
        values = np.full((len(alphas), len(betas)), np.nan)
        for (alpha, beta), found in cells.items():
            values[alphas.index(alpha), betas.index(beta)] = np.mean([of(run) for run in found])
        return values

    scores = [surface(lambda run, g=ground: share_of(run.tasks, g)) for ground in grounds]  # type: ignore[misc]
    varied = [
        surface(lambda run, g=ground: least_ratio(run.diversity, g))  # type: ignore[misc]
        for ground in grounds
    ]
    titles = [*grounds, "mean of the grounds"] if len(grounds) > 1 else grounds
    rows = ((scores, "{:.0f}", "viridis"), (varied, "{:.2f}", "cividis"))
    figure = new_figure(len(titles), 2, width=0.66 * len(betas) + 0.9, height=0.46 * len(alphas) + 0.7)
    panels: Any = figure.subplots(2, len(titles), sharex=True, sharey=True, squeeze=False)
    for row, (surfaces, form, colours) in zip(panels, rows, strict=True):
        for panel, values in zip(row, [*surfaces, np.mean(surfaces, axis=0)], strict=False):
            _heat(panel, values, form, colours, framed=surfaces is scores)
    for place, title in enumerate(titles):
        panels[0][place].set_title(title, fontsize=10)
        panels[1][place].set_xticks(range(len(betas)), [f"{beta:g}" for beta in betas])
        panels[1][place].set_xlabel("beta, when sampling", fontsize=9)
    panels[0][0].set_yticks(range(len(alphas)), [f"{alpha:g}" for alpha in alphas])
    panels[0][0].set_ylabel("% of test tasks\nalpha, absorbed", fontsize=9)
    panels[1][0].set_ylabel("least diversity ratio\nalpha, absorbed", fontsize=9)
    note = "Means over seeds; framed: the best composition on these tasks. Each panel has its own colours."
    return save(figure, folder, f"cfg-{setting}", f"guidance absorbed and added, {setting}", note)


def _heat(panel: Axes, surface: Any, form: str, colours: str, *, framed: bool) -> None:
    from matplotlib.patches import Rectangle

    panel.imshow(surface, cmap=colours, origin="lower", aspect="auto")
    panel.tick_params(length=0, labelsize=9)
    if np.isnan(surface).all():
        return
    low, high = np.nanmin(surface), np.nanmax(surface)
    look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9}
    for (row, column), value in np.ndenumerate(surface):
        if not np.isnan(value):
            dark = value < low + 0.6 * (high - low)
            panel.text(column, row, form.format(value), color="white" if dark else "black", **look)
    if framed:
        row, column = np.unravel_index(int(np.nanargmax(surface)), surface.shape)
        corner = (float(column) - 0.5, float(row) - 0.5)
        panel.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="#c0392b", linewidth=2.5))
