"""Small images on disk to build rows from."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image


def pixels(height: int = 6, width: int = 4, seed: int = 0) -> np.ndarray:
    """uint8 [height, width, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, height: int = 6, width: int = 4, seed: int = 0) -> np.ndarray:
    """Write `pixels` to a file and return them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(height, width, seed)).save(path)
    return pixels(height, width, seed)


def encoded(format: str = "PNG", seed: int = 0) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(seed=seed)).save(file, format=format)
    return file.getvalue()
