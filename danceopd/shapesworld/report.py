"""The demo's pictures and its self-contained HTML report."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from danceopd.flow import VelocityField
from danceopd.page import data_uri, write_page
from danceopd.sampling import sample
from danceopd.training import read_metrics
from danceopd.training.report import loss_chart

from .family import ShapesWorldFamily, as_example
from .render import from_pixels
from .scorer import score
from .tasks import GROUNDS, Task, TaskSet

PICTURE = 80  # an image's edge in the grid, five times its own
_MARGIN, _LABEL, _HEADER = 8, 250, 30
_RIGHT, _WRONG, _NEUTRAL = (40, 160, 70), (200, 60, 50), (190, 190, 190)


def draw_pictures(
    path: Path,
    family: ShapesWorldFamily,
    fields: Mapping[str, VelocityField],
    grounds: Sequence[str],
    *,
    seed: int,
    rows_per_ground: int = 6,
) -> None:
    """A PNG grid: the same prompts and sources down, models across, a green frame where the scorer agrees.

    All models start from the same noise.
    """
    tasks = [
        TaskSet((category,), "test")[1000 + number]
        for ground in grounds
        for number, category in _spread(GROUNDS[ground], rows_per_ground)
    ]
    examples = [as_example(task) for task in tasks]
    prompts, sources = [e.prompt for e in examples], [next(iter(e.sources), None) for e in examples]
    images = {
        n: sample(family, f, prompts, sources=sources, num_steps=8, seed=seed) for n, f in fields.items()
    }
    grid = _draw(tasks, sources, images)
    part = path.with_suffix(".part")
    grid.save(part, format="PNG")
    os.replace(part, path)


def _spread(categories: Sequence[str], rows: int) -> list[tuple[int, str]]:
    return [(row // len(categories), categories[row % len(categories)]) for row in range(rows)]


def _draw(
    tasks: Sequence[Task], sources: Sequence[Tensor | None], images: Mapping[str, Tensor]
) -> Image.Image:
    step = PICTURE + _MARGIN
    width, height = _LABEL + step * (1 + len(images)) + _MARGIN, _HEADER + step * len(tasks) + _MARGIN
    grid = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(grid), ImageFont.load_default(13)
    for column, title in enumerate(["source", *images]):
        draw.text((_LABEL + step * column + PICTURE // 2, _HEADER // 2), title, "black", font, anchor="mm")
    fulfilled = {name: score(from_pixels(pictures), tasks) for name, pictures in images.items()}
    for row, (task, source) in enumerate(zip(tasks, sources, strict=True)):
        top = _HEADER + step * row
        draw.text((_MARGIN, top + PICTURE // 2), task.prompt, "black", font, anchor="lm")
        if source is not None:
            _paste(grid, draw, source, (_LABEL, top), _NEUTRAL)
        for column, (name, pictures) in enumerate(images.items(), start=1):
            frame = _RIGHT if fulfilled[name][row] else _WRONG
            _paste(grid, draw, pictures[row], (_LABEL + step * column, top), frame)
    return grid


def _paste(
    grid: Image.Image,
    draw: ImageDraw.ImageDraw,
    image: Tensor,
    at: tuple[int, int],
    frame: tuple[int, int, int],
) -> None:
    pixels = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
    grid.paste(pixels.resize((PICTURE, PICTURE), Image.Resampling.NEAREST), at)
    draw.rectangle((at[0] - 2, at[1] - 2, at[0] + PICTURE + 1, at[1] + PICTURE + 1), outline=frame, width=2)


def write_report(folder: Path, metrics: dict[str, Any]) -> Path:
    """Write report.html, with all tables, pictures and loss curves inside this one file."""
    settings = [
        {
            **setting,
            "picture": data_uri(folder / f"{name}.png"),
            "loss": loss_chart(read_metrics(folder / name / "metrics.jsonl")),
        }
        for name, setting in metrics["settings"].items()
    ]
    return write_page(
        folder / "report.html",
        __package__,
        "report.html.j2",
        metrics=metrics,
        settings=settings,
        versions={"torch": torch.__version__},
    )
