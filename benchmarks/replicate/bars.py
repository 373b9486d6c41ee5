"""Bars: every arm of a suite, with the paper's ranks beside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .arms import REFERENCES, VALIDATED, arms_of, label_of, settings_of
from .drawing import (
    Drawing,
    add_legend,
    grounds_of,
    mark_expert,
    new_figure,
    save,
    tidy,
)
from .palette import colours_of, pale
from .paper import published_of, ranks
from .records import Run
from .stats import Estimate, outcomes, score
from .tables import suites_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ANY: Final = "#555555"  # in the legend, for the colours of all arms


def draw_suites(runs: Sequence[Run], folder: Path) -> Iterator[Drawing]:
    """One per suite and setting; the surface of guidance is drawn elsewhere."""
    for suite in suites_of(runs):
        mine = [run for run in runs if run.suite == suite]
        for setting in settings_of(mine):
            arms = arms_of(mine, suite, setting)
            if suite != "cfg":
                yield _bars(runs, suite, setting, arms, folder)


def _bars(runs: Sequence[Run], suite: str, setting: str, arms: Sequence[str], folder: Path) -> Drawing:
    """Horizontal bars, an arm per row, a panel per ground and one for their mean."""
    own = [run for run in runs if (run.suite, run.setting) == (suite, setting)]
    grounds, colours = grounds_of(own), colours_of(arms, suite)
    figure = new_figure(len(grounds) + 1, width=3.1, height=0.36 * len(arms) + 0.7)
    panels: Any = figure.subplots(1, len(grounds) + 1, sharey=True, squeeze=False)[0]
    places = {arm: len(arms) - 1 - place for place, arm in enumerate(arms)}
    both = any(run.budget == "compute" for run in own)
    validated = suite in VALIDATED
    published = {table.ground: table for table in published_of(suite, setting)}
    for panel, ground in zip(panels, [*grounds, None], strict=True):
        tidy(panel)
        panel.grid(visible=False, axis="y")
        for arm in arms:
            told = _scores(own, arm, ground)
            wide = 0.38 if both and len(told) > 1 else 0.7
            for budget, estimate in told.items():
                shift = 0.0 if len(told) == 1 else (0.2 if budget == "updates" else -0.2)
                colour = pale(colours[arm]) if budget == "compute" else colours[arm]
                _bar(panel, places[arm] + shift, estimate, colour, wide)
        if both:  # what the two bars of an arm are, in a colour that no arm has
            for label, colour in (("equal updates", _ANY), ("equal compute", pale(_ANY))):
                panel.fill_between([], [], [], color=colour, label=label)
        if not validated:
            mark_expert(panel, runs, setting, ground, across=False)
        panel.set_title(ground or "mean of the grounds", fontsize=10)
        panel.set_xlabel(f"% of {'validation' if validated else 'test'} tasks", fontsize=9)
        panel.set_xlim(0, 100)
        if ground in published:
            _write_ranks(panel, published[ground].values, places, published[ground].metric)
    panels[0].set_yticks(list(places.values()), [label_of(arm, suite) for arm in places], fontsize=9)
    for label, arm in zip(panels[0].get_yticklabels(), places, strict=True):
        label.set_fontweight("bold" if arm == REFERENCES.get(suite) else "normal")
    panels[0].set_ylim(-0.6, len(arms) - 0.4)
    if both:
        add_legend(figure, panels[0])
    note = "Whiskers: 95 % over seeds and prompts."
    note += "" if validated else " Dashed: the expert of the ground."
    note += " Right: rank in the paper." if published else ""
    return save(figure, folder, f"{suite}-{setting}", f"{suite}, {setting}", note)


def _scores(runs: Sequence[Run], arm: str, ground: str | None) -> dict[str, Estimate]:
    """By budget."""
    found = {}
    for budget in ("none", "updates", "compute"):
        own = [run for run in runs if run.arm == arm and run.budget == budget]
        if own and (ground is None or ground in own[0].tasks):
            found[budget] = score(outcomes(own), ground)
    return found


def _bar(panel: Axes, place: float, told: Estimate, colour: str, wide: float) -> None:
    panel.barh(place, 100 * told.value, wide, color=colour)
    panel.plot([100 * told.low, 100 * told.high], [place] * 2, color="#222", linewidth=1.1)


def _write_ranks(panel: Axes, values: Any, places: dict[str, int], metric: str) -> None:
    """The paper's rank of each arm at the right edge."""
    # Beside the panel, so that no bar reaches it.
    where = panel.get_yaxis_transform()
    panel.text(1.02, 1.0, f"paper\n{metric}", transform=panel.transAxes, fontsize=7.5, color="#555")
    for arm, rank in ranks({arm: values[arm] for arm in values if arm in places}).items():
        panel.text(1.03, places[arm], f"#{rank}", transform=where, fontsize=8, color="#333", va="center")
