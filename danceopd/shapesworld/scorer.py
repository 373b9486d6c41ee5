"""The exact judge: reads a scene off an image, and decides whether it is what was asked for.

Reading is analysis by synthesis. The background and its style are the palette entry that fits the gaps
between the cells; each cell is then compared with every shape, colour and style that the world can draw
there, over a grid of places and sizes, and takes the best. An image that nothing in the world fits within
MAX_ERROR has no reading and fulfils nothing. Style is read from the background and from every object
separately, so an image in two styles fulfils nothing either: one style error over the whole image would let a
copy of the source pass for a style change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
import torch
from torch import Tensor

from .render import coverage
from .tasks import Task
from .world import (
    BACKGROUNDS,
    CELL_SIZE,
    COLOURS,
    IMAGE_SIZE,
    JITTER,
    NUM_CELLS,
    RADIUS,
    SHAPES,
    Scene,
    Thing,
    background_palette,
    colour_palette,
)

MAX_ERROR = 0.12
"""Largest root-mean-square distance, channels in [0, 1], between a part of an image and its best fit."""

MAX_MOVE = 1.0
"""How far an object that an edit should keep may move, in pixels per axis."""

MAX_GROWTH = 0.4
"""How much the radius of such an object may change, in pixels."""

_PLACES = (-2 * JITTER, -JITTER, 0.0, JITTER, 2 * JITTER)
_RADII = (RADIUS[0] - 0.1, sum(RADIUS) / 2, RADIUS[1] + 0.1)


@dataclass(frozen=True)
class _Templates:
    """Every way to fill a cell: coverage [T, 64] and what it shows; the empty cell is not among them."""

    coverage: Tensor
    shape: np.ndarray
    place: np.ndarray  # [T, 3]: dx, dy, radius


@cache
def _templates() -> _Templates:
    grid = np.array(list(product(range(len(SHAPES)), _PLACES, _PLACES, _RADII)))
    axis = np.arange(CELL_SIZE, dtype=np.float32) + 0.5 - CELL_SIZE / 2
    shape, dx, dy, radius = (grid[:, i, None, None].astype(np.float32) for i in range(4))
    alpha = coverage(shape.astype(np.int64), axis[None, None, :] - dx, axis[None, :, None] - dy, radius)
    return _Templates(torch.from_numpy(alpha).flatten(1), grid[:, 0].astype(int), grid[:, 1:])


def read(images: Tensor) -> list[Scene | None]:
    """The scene that each image [B, 3, 16, 16] in [-1, 1] shows, or None where no scene fits.

    Places and sizes are those of the nearest template (half a pixel and 0.3 pixel apart).
    """
    if images.ndim != 4 or tuple(images.shape[1:]) != (3, IMAGE_SIZE, IMAGE_SIZE):
        raise ValueError(
            f"images has shape {tuple(images.shape)}, but must be [B, 3, {IMAGE_SIZE}, {IMAGE_SIZE}]."
        )
    pixels = (images.detach().to("cpu", torch.float32) + 1) / 2
    scenes: list[Scene | None] = []
    for part in pixels.split(64):
        scenes.extend(_read(part))
    return scenes


def _read(pixels: Tensor) -> list[Scene | None]:
    batch = len(pixels)
    finite = pixels.isfinite().flatten(1).all(1)
    pixels = pixels.nan_to_num().clamp(0, 1)

    # A cell's four corner pixels are background, or nearly so, whatever the cell holds.
    edge = [0, CELL_SIZE - 1, CELL_SIZE, IMAGE_SIZE - 1]
    gaps = pixels[:, :, edge][:, :, :, edge].flatten(2)
    palette = torch.from_numpy(background_palette()).flatten(0, 1)
    spread = (gaps[:, None] - palette[None, :, :, None]).square().mean((2, 3)).sqrt()
    background_error, background = spread.min(1)

    # [B * cells, 3, 64], and for each the error of every (style and colour, template).
    cells = pixels.unflatten(3, (2, CELL_SIZE)).unflatten(2, (2, CELL_SIZE)).permute(0, 2, 4, 1, 3, 5)
    cells = cells.reshape(batch * NUM_CELLS, 3, CELL_SIZE * CELL_SIZE)
    ground = palette[background].repeat_interleave(NUM_CELLS, 0)
    templates = _templates()
    paints = torch.from_numpy(colour_palette()).flatten(0, 1)
    difference = cells - ground[:, :, None]
    step = paints[None] - ground[:, None]  # [cells, paints, 3]
    # |difference - alpha step|^2 summed over pixels, opened up so that one matrix product serves
    # all templates.
    along = torch.einsum("cpk,ckx->cpx", step, difference) @ templates.coverage.T
    energy = templates.coverage.square().sum(1)
    empty = difference.square().sum((1, 2))
    error = empty[:, None, None] - 2 * along + step.square().sum(2)[:, :, None] * energy
    best, choice = error.flatten(1).min(1)
    count = 3 * CELL_SIZE * CELL_SIZE
    filled = best < empty
    cell_error = (torch.minimum(best, empty).clamp_min(0) / count).sqrt()

    good = finite & (background_error <= MAX_ERROR) & (cell_error.view(batch, NUM_CELLS) <= MAX_ERROR).all(1)
    scenes: list[Scene | None] = []
    for b in range(batch):
        style, kind = divmod(int(background[b]), len(BACKGROUNDS))
        things = []
        for cell in range(NUM_CELLS):
            index = b * NUM_CELLS + cell
            if not filled[index]:
                continue
            paint, template = divmod(int(choice[index]), len(templates.shape))
            thing_style, colour = divmod(paint, len(COLOURS))
            place = templates.place[template].tolist()
            things.append((thing_style, Thing(cell, int(templates.shape[template]), colour, *place)))
        one_style = all(thing_style == style for thing_style, _ in things)
        scenes.append(Scene(kind, style, tuple(t for _, t in things)) if good[b] and one_style else None)
    return scenes


def fulfils(scene: Scene | None, task: Task) -> bool:
    """Whether a scene read off an image is an answer to the task.

    Captions: exactly the objects named, where and as named, on the background named, in plain style. Edits:
    what the instruction names has changed, and everything else (cell, shape, colour, place, size, background,
    style) is kept; an added object may stand in any free cell, and a new object anywhere in its cell.
    """
    if scene is None:
        return False
    if task.source is None:
        return _fulfils_caption(scene, task)
    if task.category in ("subject-add", "subject-replace"):
        return _has_new_thing(scene, task.source, task.target)
    return _same(scene, task.target)


def _fulfils_caption(scene: Scene, task: Task) -> bool:
    wanted = task.target.things
    if scene.style != 0 or scene.background != task.target.background:
        return False
    if task.category in ("colours", "colour-attribution"):
        return _looks(scene.things) == _looks(wanted)
    if sorted(thing.shape for thing in scene.things) != sorted(thing.shape for thing in wanted):
        return False
    if task.category == "position":
        a, b = (next(thing for thing in scene.things if thing.shape == w.shape) for w in wanted)
        across, down = wanted[0].column - wanted[1].column, wanted[0].row - wanted[1].row
        return (a.column - b.column) * across > 0 if across else (a.row - b.row) * down > 0
    return True


def _looks(things: Sequence[Thing]) -> list[tuple[int, int]]:
    return sorted((thing.shape, thing.colour) for thing in things)


def _same(scene: Scene, target: Scene) -> bool:
    """Whether a scene is the target: same background, style and objects, cell by cell and place by place."""
    found = {thing.cell: thing for thing in scene.things}
    return (
        (scene.background, scene.style) == (target.background, target.style)
        and found.keys() == {thing.cell for thing in target.things}
        and all(_is_kept(found[thing.cell], thing) for thing in target.things)
    )


def _is_kept(found: Thing, wanted: Thing) -> bool:
    moved = max(abs(found.dx - wanted.dx), abs(found.dy - wanted.dy))
    same_look = (found.shape, found.colour) == (wanted.shape, wanted.colour)
    return same_look and moved <= MAX_MOVE and abs(found.radius - wanted.radius) <= MAX_GROWTH


def _has_new_thing(scene: Scene, source: Scene, target: Scene) -> bool:
    """Whether a scene is the source with the target's new object, anywhere that the words allow."""
    (new,) = set(target.things) - set(source.things)
    replaces = new.cell not in source.free_cells
    cells = (new.cell,) if replaces else source.free_cells
    return any(
        (thing.shape, thing.colour) == (new.shape, new.colour) and _same(scene, source.with_thing(thing))
        for thing in scene.things
        if thing.cell in cells
    )


def score(images: Tensor, tasks: Sequence[Task]) -> list[bool]:
    """Whether each image [B, 3, 16, 16] in [-1, 1] fulfils its task."""
    if len(images) != len(tasks):
        raise ValueError(f"images holds {len(images)} rows for {len(tasks)} tasks; give one image per task.")
    return [fulfils(scene, task) for scene, task in zip(read(images), tasks, strict=True)]
