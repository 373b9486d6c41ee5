"""All figures of a replication, in the layout of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .bars import draw_suites
from .curves import draw_diversity, draw_gap_over_updates, draw_over_compute, draw_over_updates
from .drawing import Drawing, check_matplotlib
from .fields import draw_gaps, draw_guidance
from .records import Run


def draw_all(runs: Sequence[Run], folder: Path) -> list[Drawing]:
    """Every figure that there are runs for, as PNG files.

    Raises:
        ModuleNotFoundError: without matplotlib.
    """
    check_matplotlib()
    kinds = (
        draw_suites,
        draw_over_updates,
        draw_gap_over_updates,
        draw_over_compute,
        draw_diversity,
        draw_gaps,
        draw_guidance,
    )
    return [drawing for draw in kinds for drawing in draw(runs, folder)]
