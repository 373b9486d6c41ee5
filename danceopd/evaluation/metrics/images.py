"""Images as metrics compare them: the size of the image that was made decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from danceopd.data import load_image
from danceopd.evaluation.base import Case

Pixels: TypeAlias = NDArray[np.uint8]
Region: TypeAlias = NDArray[np.bool_]

_STRETCH: Final = 1.1  # of a source: families round its sides to what they can make
_WHITE: Final = 128


def read_pixels(path: Path) -> Pixels:
    """uint8 [H, W, 3]; as models are shown it: upright, transparency laid on white.

    Raises:
        ValueError: the file cannot be read as an image; one sentence says why.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"image '{path}' cannot be read ({error.strerror}): make it anew.") from None
    pixels = load_image(content, Path(), f"image '{path}'").pixels
    return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())


def read_source(case: Case, shape: tuple[Any, ...]) -> Pixels:
    """The image that was to be edited, resized to ``shape``, uint8 [H, W, 3].

    Args:
        case: has at least one source; the first counts.
        shape: of the image that was made, from its height.

    Raises:
        ValueError: it cannot be read, or has other proportions, so that no pixel lies where it was.
    """
    source = read_pixels(case.sources[0])
    (height, width), (source_height, source_width) = shape[:2], source.shape[:2]
    if (height, width) == (source_height, source_width):
        return source
    stretch = (width * source_height) / (height * source_width)
    if max(stretch, 1 / stretch) > _STRETCH:
        raise ValueError(
            f"the image of case '{case.key}' is {width}x{height} and its source "
            f"{source_width}x{source_height}: pixels compare only at the same proportions."
        )
    return np.asarray(Image.fromarray(source).resize((width, height), Image.Resampling.BICUBIC))


def read_outside(mask: Path, shape: tuple[Any, ...]) -> Region:
    """Where an image must stay as it was, bool [H, W]: no part of the pixel is white in the mask.

    Args:
        mask: white where the image may change.
        shape: of the image that was made, from its height.

    Raises:
        ValueError: the mask cannot be read, or leaves no pixel outside.
    """
    white = _white(mask).astype(np.uint8) * 255
    height, width = shape[:2]
    covered = Image.fromarray(white).resize((width, height), Image.Resampling.BOX)
    outside: Region = np.asarray(covered) == 0
    if not outside.any():
        raise ValueError(f"mask '{mask}' is white everywhere, so nothing lies outside the edited region.")
    return outside


def is_white(mask: Path) -> bool:
    """Whether the whole image may change; False where the mask cannot be read, which is told elsewhere."""
    try:
        return bool(_white(mask).all())
    except ValueError:
        return False


def _white(mask: Path) -> Region:
    return np.asarray(read_pixels(mask).mean(axis=2) >= _WHITE)
