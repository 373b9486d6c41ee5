"""PNG files: images in, and images out at a size that a person can look at."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from danceopd.files import check_writable, write_whole

_ZOOM: Final = "danceopd:zoom"
_LEGIBLE: Final = 256  # pixels
_LARGEST: Final = 1024  # pixels of a side in a table
_LINE, _MARGIN, _LETTER = 20, 8, 8  # pixels: height of a line of text, space between cells, width of a letter


def read_png(path: Path) -> Tensor:
    """uint8 [3, H, W]; an image that `write_pngs` enlarged is brought back to the pixels it was made of.

    Raises:
        ValueError: the file is no image, or one of 32-bit pixels.
        OSError: it cannot be read.
    """
    try:
        with Image.open(path) as image:
            return pixels_of(image, f"source '{path}'")
    except UnidentifiedImageError:
        raise ValueError(f"source '{path}' is not an image that can be read: give a PNG.") from None


def pixels_of(image: Image.Image, name: str = "an image") -> Tensor:
    """uint8 [3, H, W] of an opened image, as `as_rgb`; one that `write_pngs` enlarged is brought back.

    Raises:
        ValueError: it has 32-bit pixels; the message calls it by `name`.
    """
    if has_32_bits(image):
        raise ValueError(f"{name} has 32-bit pixels, whose range is unknown: save it with 8 bits per colour.")
    pixels = np.array(as_rgb(ImageOps.exif_transpose(image)))
    zoom = int(image.info.get(_ZOOM, 1))
    small = pixels[::zoom, ::zoom]
    # Pillow keeps the note when somebody crops or scales the image, which then need not be squares any more.
    if zoom > 1 and np.array_equal(small.repeat(zoom, axis=0).repeat(zoom, axis=1), pixels):
        pixels = small
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def as_rgb(image: Image.Image) -> Image.Image:
    """An image in 8-bit RGB, transparency laid on white; see `with_8_bits`."""
    image = with_8_bits(image)
    if may_be_transparent(image):
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def with_8_bits(image: Image.Image) -> Image.Image:
    """An image whose 16-bit greys keep their upper 8 bits; itself where there are none."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Pillow's own conversion would clip: all but the darkest greys would be white.
        return Image.fromarray((np.array(image) >> 8).astype(np.uint8))
    return image


def has_32_bits(image: Image.Image) -> bool:
    """Whether its numbers are of a kind that does not tell which one is white."""
    # Older versions of Pillow read the 16 bits of a PNG into 32.
    return image.mode == "F" or (image.mode == "I" and image.format != "PNG")


def may_be_transparent(image: Image.Image) -> bool:
    """Whether it has an alpha channel, or a colour that stands for transparency."""
    return "A" in image.mode.upper().replace("LAB", "") or "transparency" in image.info


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


def write_table(
    path: Path,
    columns: Sequence[str],
    rows: Sequence[tuple[str, Sequence[Tensor | None]]],
    *,
    largest: int = _LARGEST,
) -> Path:
    """Write images of any sizes as a table with labels and return its file.

    Args:
        path: a .png file.
        columns: what stands above each column.
        rows: what stands above each row, and an image per column, uint8 [3, H, W] on the CPU, or None.
        largest: pixels that no side of an image has more of.

    Raises:
        OSError: the file cannot be written; it is never half-written.
    """
    images = [[None if image is None else _legible(image, largest) for image in cells] for _, cells in rows]
    every = [image for cells in images for image in cells if image is not None]
    width = max(image.width for image in every) + _MARGIN
    heights = [max((image.height for image in cells if image), default=0) for cells in images]
    size = (width * len(columns) + _MARGIN, sum(heights) + len(rows) * (_LINE + _MARGIN) + _LINE + _MARGIN)
    table = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(table), ImageFont.load_default(14)

    def write(text: str, left: int, top: int, room: int) -> None:
        # The built-in font may have no letters beyond these.
        plain = " ".join(text.split()).encode("latin-1", "replace").decode("latin-1")
        draw.text((left, top), plain[: room // _LETTER], fill="black", font=font)

    for column, name in enumerate(columns):
        write(name, _MARGIN + column * width, _MARGIN // 2, width)
    top = _LINE + _MARGIN
    for (label, _), cells, height in zip(rows, images, heights, strict=True):
        write(label, _MARGIN, top, size[0])
        for column, image in enumerate(cells):
            if image is not None:
                table.paste(image, (_MARGIN + column * width, top + _LINE))
        top += _LINE + height + _MARGIN
    about, content = PngInfo(), io.BytesIO()
    # For readers who cannot see it; the standard's own key for such a text.
    labels = "; ".join(label for label, _ in rows)
    about.add_itxt("Description", f"Columns: {', '.join(columns)}. Rows: {labels}.")
    table.save(content, format="PNG", pnginfo=about)
    return write_whole(path, content.getvalue())


def _legible(image: Tensor, largest: int) -> Image.Image:
    zoom = max(1, -(-_LEGIBLE // image.shape[-1]))
    large = image.repeat_interleave(zoom, dim=1).repeat_interleave(zoom, dim=2)
    picture = Image.fromarray(np.ascontiguousarray(large.permute(1, 2, 0).numpy()))
    picture.thumbnail((largest, largest))  # a source may be a photograph
    return picture


def _is_folder(out: Path) -> bool:
    return out.is_dir() or not out.suffix


def _encode(image: Tensor, zoom: int) -> bytes:
    about = PngInfo()
    about.add_text(_ZOOM, str(zoom))
    large = image.repeat_interleave(zoom, dim=1).repeat_interleave(zoom, dim=2)
    content = io.BytesIO()
    Image.fromarray(large.permute(1, 2, 0).numpy()).save(content, format="PNG", pnginfo=about)
    return content.getvalue()
