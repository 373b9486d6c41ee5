"""From scenes to pixels: anti-aliased signed-distance shapes, the whole batch at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from .world import CELL_SIZE, IMAGE_SIZE, NUM_CELLS, Scene, background_palette, colour_palette

Array = npt.NDArray[np.float32]

_AXIS = np.arange(IMAGE_SIZE, dtype=np.float32) + 0.5
_COLOURS = colour_palette()
_BACKGROUNDS = background_palette()


def signed_distance(shape: npt.NDArray[np.int64], x: Array, y: Array, radius: Array) -> Array:
    """Approximate distance in pixels to the outline, negative inside; arguments broadcast, y points down."""
    ax, ay = np.abs(x), np.abs(y)
    circle = np.sqrt(x * x + y * y) - radius
    square = np.maximum(ax, ay) - 0.88 * radius
    # Apex at (0, -r), base at y = 0.78 r with half width 0.98 r.
    length = np.hypot(1.78, 0.98).astype(np.float32)
    triangle = np.maximum((1.78 * ax - 0.98 * (y + radius)) / length, y - 0.78 * radius)
    thick = 0.36 * radius
    cross = np.minimum(np.maximum(ax - radius, ay - thick), np.maximum(ax - thick, ay - radius))
    return np.choose(shape, [circle, square, triangle, cross]).astype(np.float32)


def coverage(shape: npt.NDArray[np.int64], x: Array, y: Array, radius: Array) -> Array:
    """How much of each pixel the shape covers, in [0, 1]."""
    return np.clip(0.5 - signed_distance(shape, x, y, radius), 0.0, 1.0)


def render(scenes: Sequence[Scene]) -> torch.Tensor:
    """Images of the scenes as float32 in [-1, 1], shape [B, 3, 16, 16]."""
    batch = len(scenes)
    background = np.fromiter((s.background for s in scenes), np.int64, batch)
    style = np.fromiter((s.style for s in scenes), np.int64, batch)
    shape = np.zeros((batch, NUM_CELLS), np.int64)
    colour = np.zeros((batch, NUM_CELLS), np.int64)
    # An absent object is a shape of radius -1: it covers nothing.
    place = np.zeros((3, batch, NUM_CELLS), np.float32)
    place[2] = -1.0
    for b, scene in enumerate(scenes):
        for thing in scene.things:
            shape[b, thing.cell], colour[b, thing.cell] = thing.shape, thing.colour
            place[:, b, thing.cell] = thing.dx, thing.dy, thing.radius

    cells = np.arange(NUM_CELLS)
    half = CELL_SIZE / 2
    centre_x = (cells % 2) * CELL_SIZE + half + place[0]
    centre_y = (cells // 2) * CELL_SIZE + half + place[1]
    x = _AXIS - centre_x[:, :, None, None].astype(np.float32)
    y = _AXIS[:, None] - centre_y[:, :, None, None].astype(np.float32)
    radius = place[2][:, :, None, None]
    alpha = np.where(radius > 0, coverage(shape[:, :, None, None], x, y, radius), 0.0)

    image = np.tile(_BACKGROUNDS[style, background][:, :, None, None], (1, 1, IMAGE_SIZE, IMAGE_SIZE))
    paint = _COLOURS[style[:, None], colour]
    for cell in range(NUM_CELLS):
        image += alpha[:, cell, None] * (paint[:, cell, :, None, None] - image)
    return torch.from_numpy((image * 2.0 - 1.0).astype(np.float32))


def to_pixels(sample: torch.Tensor) -> torch.Tensor:
    """Images in [-1, 1] (what is outside is clipped) as uint8, same shape."""
    return ((sample.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def from_pixels(image: torch.Tensor) -> torch.Tensor:
    """uint8 images as float32 in [-1, 1], same shape; another dtype, whose range is unknown, is refused."""
    if image.dtype != torch.uint8:
        raise ValueError(f"image is {image.dtype}, but pixels are uint8 in 0 .. 255; convert it first.")
    return image.to(torch.float32) / 127.5 - 1
