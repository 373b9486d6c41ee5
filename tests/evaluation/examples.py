"""Small images and cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from danceopd.evaluation import Case

RED, GREEN, BLUE = (220, 20, 20), (20, 200, 20), (20, 20, 220)


def noise(seed: int, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, pixels: NDArray[Any]) -> Path:
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def edit(key: str, source: Path, **fields: Any) -> Case:
    given = {"category": "colour", "prompt": "make the circle red"} | fields
    return Case(key=key, capability="edit", sources=(source,), **given)


def caption(key: str, prompt: str = "a red circle", **fields: Any) -> Case:
    return Case(key=key, capability="t2i", prompt=prompt, **({"category": "single"} | fields))
