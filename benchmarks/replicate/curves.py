"""Scores and diversity over updates, compute and each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .arms import MAIN, label_of, place_of, settings_of
from .drawing import (
    Drawing,
    add_legend,
    draw_curve,
    grounds_of,
    least_ratio,
    mark_expert,
    new_figure,
    save,
    share_of,
    tidy,
)
from .palette import colours_of, markers_of
from .records import COMPUTE, Run
from .stats import outcomes, score

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NEAR = 0.05
"""Share of a training within which two of its moments are one."""


def _watched(runs: Sequence[Run]) -> dict[str, dict[str, list[Run]]]:
    """Setting -> arm -> runs with a curve, at equal updates."""
    found: dict[str, dict[str, list[Run]]] = {}
    for setting in settings_of(runs):
        own = [
            r for r in runs if r.setting == setting and r.budget == "updates" and r.curve and r.suite == MAIN
        ]
        arms = sorted({run.arm for run in own}, key=place_of)
        if arms:
            found[setting] = {arm: [run for run in own if run.arm == arm] for arm in arms}
    return found


def moments_of(run: Run) -> list[Mapping[str, Any]]:
    """The moments of a run's curve, without those that all but meet the last one."""
    last = run.curve[-1]["updates"]
    return [m for m in run.curve if m["updates"] == last or m["updates"] < (1.0 - NEAR) * last]


def _side_by_side(runs: Sequence[Run]) -> tuple[list[float], list[list[Mapping[str, Any]]]]:
    """The moments of runs that were watched equally often, and their updates; what broke off is left out."""
    told = [moments_of(run) for run in runs]
    updates = [[moment["updates"] for moment in moments] for moments in told]
    most = max(updates, key=len)
    kept = [
        place
        for place, each in enumerate(updates)
        if len(each) == len(most) and np.allclose(each, most, rtol=0.0, atol=NEAR * most[-1])
    ]
    return np.mean([updates[place] for place in kept], axis=0).tolist(), [told[place] for place in kept]


def _prompts_of(run: Run) -> int:
    """Tasks per category on the way."""
    return max(len(done) for of in run.curve[0]["tasks"].values() for done in of.values())


def draw_over_updates(runs: Sequence[Run], folder: Path) -> Iterator[Drawing]:
    """Score above, diversity below, a panel per ground, of runs that were watched."""
    for setting, arms in _watched(runs).items():
        watched = [run for own in arms.values() for run in own]
        grounds, prompts = grounds_of(watched), max(map(_prompts_of, watched))
        figure = new_figure(len(grounds) + 1, 2)
        panels: Any = figure.subplots(2, len(grounds) + 1, sharex=True, sharey="row", squeeze=False)
        colours, markers = colours_of(arms), markers_of(arms)
        for arm, own in arms.items():
            steps, told = _side_by_side(own)
            kinds = (
                [[[share_of(m["tasks"], g) for m in moments] for moments in told] for g in grounds],
                [[[least_ratio(m["diversity"], g) for m in moments] for moments in told] for g in grounds],
            )
            for row, of_grounds in zip(panels, kinds, strict=True):
                for panel, values in zip(row, [*of_grounds, np.mean(of_grounds, axis=0)], strict=True):
                    draw_curve(panel, steps, np.asarray(values), colours[arm], markers[arm], label_of(arm))
        for place, ground in enumerate([*grounds, None]):
            panels[0][place].set_title(ground or "mean of the grounds", fontsize=10)
            mark_expert(panels[0][place], runs, setting, ground, across=True, first=prompts)
            panels[1][place].set_xlabel("updates", fontsize=9)
        for panel in panels.flatten():
            tidy(panel)
        panels[0][0].set_ylabel(f"% of the first {prompts} test tasks\nof each category", fontsize=9)
        panels[1][0].set_ylabel("least diversity ratio", fontsize=9)
        add_legend(figure, panels[0][0])
        note = "Mean over seeds, band from the lowest to the highest seed. "
        note += f"Dashed: the expert on the same tasks, the first {prompts} of each category."
        title = f"score and diversity over training, {setting}"
        yield save(figure, folder, f"over-updates-{setting}", title, note)


BANDS = (("high noise", 2 / 3, 1.0), ("middle", 1 / 3, 2 / 3), ("low noise", 0.0, 1 / 3))


def draw_gap_over_updates(runs: Sequence[Run], folder: Path) -> Iterator[Drawing]:
    """The field gap in each third of the noise levels, a panel per ground, of runs that were watched."""
    for setting, arms in _watched(runs).items():
        grounds = grounds_of([run for own in arms.values() for run in own])
        figure = new_figure(len(grounds), len(BANDS))
        panels: Any = figure.subplots(len(BANDS), len(grounds), sharex=True, sharey=True, squeeze=False)
        colours, markers = colours_of(arms), markers_of(arms)
        for arm, own in arms.items():
            steps, told = _side_by_side(own)
            for row, (_, low, high) in zip(panels, BANDS, strict=True):
                for panel, ground in zip(row, grounds, strict=True):
                    errors = [[_gap_between(m["gap"][ground], low, high) for m in of] for of in told]
                    draw_curve(panel, steps, np.asarray(errors), colours[arm], markers[arm], label_of(arm))
        for panel in panels.flatten():
            panel.set_yscale("log")
            tidy(panel)
        for place, ground in enumerate(grounds):
            panels[0][place].set_title(ground, fontsize=10)
            panels[-1][place].set_xlabel("updates", fontsize=9)
        for row, (name, _, _) in zip(panels, BANDS, strict=True):
            row[0].set_ylabel(f"{name}\nerror of velocity", fontsize=9)
        add_legend(figure, panels[0][0])
        note = "Mean squared error against the teacher on the student's own rollouts; band over seeds."
        title = f"field gap by thirds of sigma over training, {setting}"
        yield save(figure, folder, f"gap-over-updates-{setting}", title, note)


def _gap_between(gap: Mapping[str, Sequence[float]], low: float, high: float) -> float:
    """The mean error at the noise levels above ``low``, up to ``high``."""
    pairs = zip(gap["sigma"], gap["error"], strict=True)
    return float(np.mean([error for sigma, error in pairs if low < sigma <= high]))


def _ends(runs: Sequence[Run], setting: str) -> dict[str, dict[str, list[Run]]]:
    """Arm of the main table -> budget -> trained runs."""
    found: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        if run.setting == setting and run.suite == MAIN and run.budget != "none":
            found.setdefault(run.arm, {}).setdefault(run.budget, []).append(run)
    return {arm: found[arm] for arm in sorted(found, key=place_of)}


def draw_over_compute(runs: Sequence[Run], folder: Path) -> Iterator[Drawing]:
    """Where each method of the main table ends, at both budgets."""
    settings = [setting for setting in settings_of(runs) if _ends(runs, setting)]
    if not settings:
        return
    figure = new_figure(len(settings), width=4.6, height=3.6)
    panels: Any = figure.subplots(1, len(settings), squeeze=False)[0]
    for panel, setting in zip(panels, settings, strict=True):
        tidy(panel)
        ends = _ends(runs, setting)
        colours, markers = colours_of(ends), markers_of(ends)
        for arm, budgets in ends.items():
            x, y = [], []
            for budget in ("updates", "compute"):
                if own := budgets.get(budget):
                    told = score(outcomes(own))
                    x.append(float(np.mean([run.compute for run in own])) / 1000)
                    y.append(100 * told.value)
                    panel.plot(
                        [x[-1]] * 2, [100 * told.low, 100 * told.high], color=colours[arm], linewidth=1
                    )
            panel.plot(
                x,
                y,
                color=colours[arm],
                marker=markers[arm],
                markersize=7,
                linewidth=1.2,
                label=label_of(arm),
            )
        panel.set_xscale("log")
        _plain_log(panel)
        panel.set_title(setting, fontsize=10)
        panel.set_xlabel(COMPUTE.replace("; ", ";\n"), fontsize=9)
    panels[0].set_ylabel("% of test tasks, mean of grounds", fontsize=9)
    add_legend(figure, panels[0])
    note = "A line joins equal updates and equal compute of a method. Whiskers: 95 % over seeds and prompts."
    yield save(figure, folder, "over-compute", "score against compute", note)


def _plain_log(panel: Axes) -> None:
    """Numbers instead of powers of ten, few of them."""
    from matplotlib.ticker import LogLocator, NullFormatter

    panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panel.xaxis.set_minor_formatter(NullFormatter())


def draw_diversity(runs: Sequence[Run], folder: Path) -> Iterator[Drawing]:
    """How varied the images of the main table are against how right they are."""
    for setting in settings_of(runs):
        own = [
            run
            for run in runs
            if run.setting == setting and run.suite == MAIN and run.budget != "compute" and run.diversity
        ]
        if not own:
            continue
        arms = sorted({run.arm for run in own}, key=place_of)
        grounds, colours, markers = grounds_of(own), colours_of(arms), markers_of(arms)
        figure = new_figure(len(grounds), width=4.4, height=3.4)
        panels: Any = figure.subplots(1, len(grounds), sharey=True, squeeze=False)[0]
        for panel, ground in zip(panels, grounds, strict=True):
            tidy(panel)
            for arm in arms:
                some = [run for run in own if run.arm == arm and ground in run.diversity]
                if not some:
                    continue
                x = [share_of(run.tasks, ground) for run in some]
                y = [least_ratio(run.diversity, ground) for run in some]
                face = "none" if arm.startswith("source") else colours[arm]
                look: dict[str, Any] = {"marker": markers[arm], "edgecolors": colours[arm]}
                if len(some) > 1:
                    panel.scatter(x, y, s=14, color=colours[arm], marker=markers[arm], alpha=0.35)
                panel.scatter(np.mean(x), np.mean(y), s=60, facecolors=face, label=label_of(arm), **look)
            panel.axhline(1.0, color="#444", linestyle=":", linewidth=1)
            panel.set_title(ground, fontsize=10)
            panel.set_xlabel("% of test tasks", fontsize=9)
            panel.set_xlim(-3, 103)
        panels[0].set_ylabel("least diversity ratio", fontsize=9)
        add_legend(figure, panels[0])
        note = "Small: seeds. Hollow: sources. 1 is as varied as the truth; the least of four properties."
        yield save(figure, folder, f"diversity-{setting}", f"diversity against score, {setting}", note)
