"""Aspect-ratio buckets: the few sizes that images are brought to, so that they can share a batch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

Size = tuple[int, int]

# Long side over short side: those that cameras and screens have, up to 2.
_RATIOS: Final = (5 / 4, 4 / 3, 3 / 2, 16 / 9, 2.0)
_AREA: Final = 0.25  # share by which the area of a size that is not square may be off


def buckets(resolution: int, multiple: int) -> tuple[Size, ...]:
    """Sizes of about ``resolution`` ** 2 pixels, from 1:2 to 2:1, and each with its transpose.

    There are 11 of them, and fewer where ``multiple`` is too coarse for ``resolution`` to tell them apart.

    Args:
        resolution: side in pixels of the square one, rounded to ``multiple``.
        multiple: divides every side, such as the pixels of one latent patch.

    Returns:
        (height, width) in pixels, from the widest to the tallest.

    Raises:
        ValueError: ``multiple`` is less than 1, or ``resolution`` less than ``multiple``.
    """
    if multiple < 1:
        raise ValueError(f"multiple must be at least 1, got {multiple}: give the pixels of one latent patch.")
    if resolution < multiple:
        raise ValueError(f"resolution must be at least multiple={multiple}, got {resolution}: raise it.")
    square = _rounded(resolution, multiple)
    sizes = {(square, square)}
    for ratio in _RATIOS:
        short = _rounded(resolution / math.sqrt(ratio), multiple)
        long = min(_rounded(resolution**2 / short, multiple), 2 * short)
        # A coarse multiple may make it square again, or leave no size of this ratio and area.
        if short < long and abs(short * long / resolution**2 - 1) <= _AREA:
            sizes |= {(long, short), (short, long)}
    return tuple(sorted(sizes, key=lambda size: size[0] / size[1]))


def nearest_bucket(height: int, width: int, buckets: Iterable[Size]) -> Size:
    """The bucket whose aspect ratio is nearest by its logarithm; of two as near, the squarer one.

    So an image and its transpose get a bucket and its transpose.

    Raises:
        ValueError: ``height`` or ``width`` is less than 1, or there are no buckets.
    """
    if height < 1 or width < 1:
        raise ValueError(f"an image has at least 1 x 1 pixels, got {height} x {width}.")
    sizes = tuple(buckets)
    if not sizes:
        raise ValueError("buckets is empty: give at least one size.")
    wanted = _log_ratio((height, width))
    return min(sizes, key=lambda size: (abs(_log_ratio(size) - wanted), abs(_log_ratio(size))))


def _log_ratio(size: Size) -> float:
    # A difference and not the log of a quotient: exactly the negative for the transpose.
    return math.log(size[0]) - math.log(size[1])


def _rounded(side: float, multiple: int) -> int:
    return max(1, math.floor(side / multiple + 0.5)) * multiple
