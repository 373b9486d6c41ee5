"""How images are brought to the sizes that models take: scaled to cover a size, then cropped to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from danceopd.data import nearest_bucket

_KEPT = 0.75  # of a source's area, where it is cropped to a size that it can share


class Fit(NamedTuple):
    """What is done to an image; heights and widths in pixels.

    Attributes:
        scaled: what the whole image is scaled to.
        cropped: what is then kept around its center.
    """

    scaled: tuple[int, int]
    cropped: tuple[int, int]


def source_fit(
    height: int, width: int, sizes: Sequence[tuple[int, int]], multiple: int, *, scales_up: bool
) -> Fit:
    """How a source image is brought to one of `sizes`; its sides become multiples of `multiple`.

    It is scaled to cover the size nearest to its aspect ratio, which is also that of the image to be made of
    it: rows of different photographs then share a forward. Where that would crop too much it keeps its aspect
    ratio. One that is smaller than that size, where it is not to be scaled up, keeps its own. What is left
    over is cropped around the center.

    Args:
        height: of the image.
        width: of the image.
        sizes: height and width in pixels, multiples of `multiple`; see `danceopd.data.buckets`.
        multiple: at least 1.
        scales_up: whether a small one is scaled up.

    Raises:
        ValueError: a side is shorter than `multiple`.
    """
    rows, columns = nearest_bucket(height, width, sizes)
    if scales_up or height * width > rows * columns:
        covering = cover(height, width, (rows, columns))
        (scaled_height, scaled_width), _ = covering
        grows = scaled_height > height or scaled_width > width
        if (scales_up or not grows) and rows * columns >= _KEPT * scaled_height * scaled_width:
            return covering
        # A strip, of which no size would leave enough.
        factor = (max(h * w for h, w in sizes) / (height * width)) ** 0.5
        factor = factor if scales_up else min(1.0, factor)
        height, width = max(1, int(height * factor)), max(1, int(width * factor))
    rows, columns = height // multiple * multiple, width // multiple * multiple
    if not rows or not columns:
        raise ValueError(
            f"a source image of {height} x {width} pixels is too small: its sides must be {multiple} at "
            "least."
        )
    return Fit((height, width), (rows, columns))


def cover(height: int, width: int, size: tuple[int, int]) -> Fit:
    """How an image is brought to exactly `size`, height and width in pixels, scaled up or down."""
    rows, columns = size
    factor = max(rows / height, columns / width)
    return Fit((max(rows, round(height * factor)), max(columns, round(width * factor))), size)


def fitted(image: Tensor, fit: Fit) -> Tensor:
    """An image, uint8 [3, H, W], scaled (Lanczos) and cropped; itself where there is nothing to do."""
    height, width = fit.scaled
    if image.shape[1:] != fit.scaled:
        picture = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
        resized = np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS))
        image = torch.from_numpy(resized.copy()).permute(2, 0, 1)
    top, left = _corner(fit)
    rows, columns = fit.cropped
    return image[:, top : top + rows, left : left + columns].contiguous()


def cell_shares(mask: Tensor, fit: Fit, cells: tuple[int, int]) -> Tensor:
    """How much of each latent cell a mask marks, exactly by area: fp32 [1, h, w] in 0 .. 1.

    Args:
        mask: uint8 [H, W]; 255 marks a pixel, greys mark it in part.
        fit: how the image that the mask is of is brought to the size that the cells divide.
        cells: h and w.
    """
    sides = [
        _overlaps(length, begin * length / scaled, (begin + kept) * length / scaled, number)
        for length, begin, scaled, kept, number in zip(
            mask.shape, _corner(fit), fit.scaled, fit.cropped, cells, strict=True
        )
    ]
    down, across = sides
    shares = down @ (mask.to(torch.float64) / 255) @ across.T
    return shares.clamp(0, 1).to(torch.float32)[None]


def _overlaps(length: int, start: float, stop: float, cells: int) -> Tensor:
    """Weights [cells, length] that average pixels over equal cells from `start` to `stop`."""
    edges = torch.linspace(start, stop, cells + 1, dtype=torch.float64)
    lower, upper = edges[:-1, None], edges[1:, None]
    pixels = torch.arange(length, dtype=torch.float64)
    return (upper.minimum(pixels + 1) - lower.maximum(pixels)).clamp(min=0) / (upper - lower)


def _corner(fit: Fit) -> tuple[int, int]:
    """Rows above and columns left of what is kept, in the scaled image."""
    return (fit.scaled[0] - fit.cropped[0]) // 2, (fit.scaled[1] - fit.cropped[1]) // 2
