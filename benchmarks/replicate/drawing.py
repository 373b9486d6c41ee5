"""What all figures have in common: how they look, and where they go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from .arms import MAIN, expert_of, runs_of
from .records import Outcomes, Run
from .stats import digits
from .tables import ratio_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI: Final = 130


class Drawing(NamedTuple):
    """A figure on the disk, what it shows, and how it is read."""

    path: Path
    title: str
    note: str


def check_matplotlib() -> None:
    """Find out whether figures can be drawn, before the work for them begins.

    Raises:
        ModuleNotFoundError: they cannot.
    """
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "the figures of the replication need matplotlib: pip install 'danceopd[bench]'."
        ) from None


def new_figure(columns: int, rows: int = 1, *, width: float = 3.5, height: float = 3.0) -> Figure:
    """Empty, with room for panels of a size in inches; not of pyplot, which would keep it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns + 0.6, height * rows + 0.7), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)  # type: ignore[union-attr, call-arg]
    return figure


def save(figure: Figure, folder: Path, name: str, title: str, note: str) -> Drawing:
    """Write the PNG; nothing in it tells when or by what it was drawn."""
    path = folder / f"{name}.png"
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})
    return Drawing(path, title, note)


def tidy(panel: Axes) -> None:
    """Two axes, a faint grid, small numbers."""
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(alpha=0.25, linewidth=0.7)
    panel.set_axisbelow(True)
    panel.tick_params(which="both", labelsize=8.5)


def grounds_of(runs: Sequence[Run]) -> list[str]:
    """The grounds that runs were judged on, in their order."""
    return list(dict.fromkeys(ground for run in runs for ground in run.tasks))


def share_of(tasks: Mapping[str, Mapping[str, str]], ground: str) -> float:
    """Percent of a ground's tasks, as the mean over its categories."""
    return 100 * float(np.mean([digits(given).mean() for given in tasks[ground].values()]))


def first_of(tasks: Outcomes, count: int | None) -> Outcomes:
    """The outcomes on the first tasks of each category; of None, on all."""
    return {
        ground: {category: done[:count] for category, done in categories.items()}
        for ground, categories in tasks.items()
    }


def least_ratio(diversity: Mapping[str, Any], ground: str) -> float:
    """The smallest of a ground's diversity ratios; NaN where none was measured."""
    names = [name for name in diversity.get(ground, {}) if name != "readable"]
    ratios = [ratio_of(diversity, ground, name) for name in names]
    return min((ratio for ratio in ratios if ratio is not None), default=float("nan"))


def draw_curve(panel: Axes, x: Sequence[float], values: Any, colour: str, marker: str, label: str) -> None:
    """Mean over seeds with a band between the extremes; values: [S, points]."""
    values = np.ma.masked_invalid(values)  # a seed may have no state at a noise level
    panel.plot(x, values.mean(0), color=colour, marker=marker, markersize=4, linewidth=1.5, label=label)
    if len(values) > 1:
        panel.fill_between(x, values.min(0), values.max(0), color=colour, alpha=0.12, linewidth=0)


def add_legend(figure: Figure, panel: Axes) -> None:
    """One for all panels, below them."""
    handles, labels = panel.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(
        list(unique.values()),
        list(unique),
        loc="outside lower center",
        ncols=min(6, len(unique)),
        fontsize=8.5,
        frameon=False,
    )


def mark_expert(
    panel: Axes,
    runs: Sequence[Run],
    setting: str,
    ground: str | None,
    *,
    across: bool,
    first: int | None = None,
) -> None:
    """A dashed line at the score of the ground's expert, across the panel or upright.

    Args:
        panel: to draw it in.
        runs: with the expert's.
        setting: of the panel.
        ground: of the panel; None has no expert, and no line.
        across: or upright.
        first: count only as many tasks of each category, where the panel's other scores are of those.
    """
    expert = runs_of(runs, MAIN, setting, expert_of(ground), "none") if ground else []
    if ground and expert:
        level = float(np.mean([share_of(first_of(run.tasks, first), ground) for run in expert]))
        draw = panel.axhline if across else panel.axvline
        draw(level, color="#444", linestyle="--", linewidth=1)
