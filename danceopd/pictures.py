"""PNG files: images in, and images out at a size that a person can look at."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from danceopd.files import check_writable, write_whole

_ZOOM: Final = "danceopd:zoom"
_LEGIBLE: Final = 256  # pixels


def read_png(path: Path) -> Tensor:
    """uint8 [3, H, W]; an image that `write_pngs` enlarged is brought back to the pixels it was made of.

    Raises:
        ValueError: the file is no image.
        OSError: it cannot be read.
    """
    try:
        with Image.open(path) as image:
            zoom = int(image.info.get(_ZOOM, 1))
            pixels = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except UnidentifiedImageError:
        raise ValueError(f"source '{path}' is not an image that can be read: give a PNG.") from None
    return torch.from_numpy(pixels[::zoom, ::zoom].copy()).permute(2, 0, 1)


def check_pngs(out: Path) -> None:
    """Find what keeps `write_pngs` from writing to ``out``, before there are images.

    Raises:
        ValueError: ``out`` looks like another kind of file, or cannot be written.
    """
    check_writable(out / "000.png" if out.is_dir() else out)
    if not _is_folder(out) and out.suffix.lower() != ".png":
        raise ValueError(
            f"cannot write '{out}': images are kept as PNG, which loses no pixel; end the name in .png, or "
            "make it a folder first."
        )


def write_pngs(images: Tensor, out: Path, zoom: int | None = None) -> list[Path]:
    """Write images and return the files.

    Args:
        images: uint8 [B, 3, H, W] on the CPU.
        out: a .png file, where the images stand side by side, or a folder, which gets one file each.
        zoom: each pixel becomes a square of this side; None takes the least that gives 256 pixels across.

    Raises:
        OSError: a file cannot be written; no file is ever half-written.
    """
    zoom = zoom or max(1, -(-_LEGIBLE // images.shape[-1]))
    if not _is_folder(out):
        return [write_whole(out, _encode(torch.cat(list(images), dim=-1), zoom))]
    contents = [_encode(image, zoom) for image in images]
    out.mkdir(exist_ok=True)
    return [write_whole(out / f"{index:03d}.png", content) for index, content in enumerate(contents)]


def _is_folder(out: Path) -> bool:
    return out.is_dir() or not out.suffix


def _encode(image: Tensor, zoom: int) -> bytes:
    about = PngInfo()
    about.add_text(_ZOOM, str(zoom))
    large = image.repeat_interleave(zoom, dim=1).repeat_interleave(zoom, dim=2)
    content = io.BytesIO()
    Image.fromarray(large.permute(1, 2, 0).numpy()).save(content, format="PNG", pnginfo=about)
    return content.getvalue()
