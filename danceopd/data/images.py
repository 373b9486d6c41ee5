"""Images of rows, from files or from bytes, as the pixels a model is given."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from danceopd.data.content import ImageContent
from danceopd.data.errors import DataError, shown
from danceopd.data.keys import content_key
from danceopd.pictures import as_rgb, has_32_bits, may_be_transparent, with_8_bits

_CURE: Final = "replace the image, or remove the row"
_Convert = Callable[[Image.Image, str], Image.Image]
_BOMBS: Final = (Image.DecompressionBombError, Image.DecompressionBombWarning)


class LoadedImage(NamedTuple):
    """An image and what it was made of.

    Attributes:
        pixels: uint8 [3, H, W]; of a mask [H, W].
        content: the same, by its content.
    """

    pixels: Tensor
    content: ImageContent


def is_blank(value: Any) -> bool:
    """Whether a cell holds nothing: None, NaN, blank text, or an image struct without bytes and path."""
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, Mapping):
        return value.get("bytes") is None and not value.get("path")
    return value is None or (isinstance(value, float) and value != value)


def load_image(value: Any, folder: Path, what: str) -> LoadedImage:
    """Decode one image: upright as its EXIF data says, transparency laid on white.

    Of an animation the first frame counts; 16-bit greys keep their upper 8 bits; colour profiles are not
    applied.

    Args:
        value: a path, encoded bytes, ``{"bytes": ..., "path": ...}``, or a PIL image.
        folder: what a relative path starts at.
        what: the image's name in messages, such as "the source of row 17 of prompts.csv".

    Raises:
        DataError: it is missing, damaged, no image, or larger than `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    return _load(value, folder, what, _as_rgb)


def image_size(path: Path, what: str) -> tuple[int, int]:
    """Height and width of an image as `load_image` gives it, from the file's first bytes.

    Raises:
        DataError: it is not there or no image; one that is damaged further on is not noticed.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    except UnidentifiedImageError:
        raise DataError(f"{what} ({shown(path)}) is not an image that can be read: {_CURE}.") from None
    except MemoryError:
        raise
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        raise DataError(f"{what} ({shown(path)}) cannot be read ({_reason(error)}): {_CURE}.") from None
    return (width, height) if turned else (height, width)


def load_mask(value: Any, folder: Path, what: str) -> LoadedImage:
    """Decode one mask: a grey image, upright as its EXIF data says; of colours their brightness counts.

    Args:
        value: as for `load_image`.
        folder: as for `load_image`.
        what: as for `load_image`.

    Raises:
        DataError: as `load_image`; or it is transparent somewhere, marks nothing, or has 1 for white.
    """
    mask = _load(value, folder, what, _as_grey)
    brightest = int(mask.pixels.max())
    if not brightest:
        raise DataError(f"{what} is black all over and marks nothing: paint what is edited white, or leave "
                        "the cell blank where all of the image counts.")  # fmt: skip
    if brightest == 1:
        raise DataError(f"{what} has no value above 1, but white is 255: multiply it by 255.")
    return mask


def _load(value: Any, folder: Path, what: str, convert: _Convert) -> LoadedImage:
    if isinstance(value, Mapping):
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if isinstance(value, Image.Image):
        pixels = _decode(value, what, convert)
        return _with_content(pixels, content_key(pixels))
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _open(io.BytesIO(value), what, convert)
    if isinstance(value, (str, Path)):
        what = f"{what} ({shown(value)})"
        if "://" in str(value):
            raise DataError(f"{what} is an address, but images are read from disk: download it first.")
        path = folder / Path(str(value).strip()).expanduser()
        try:
            found = path.is_file()
        except (OSError, ValueError) as error:  # a name too long, a NUL in it
            raise DataError(f"{what} cannot be read ({_reason(error)}): correct its path.") from None
        if not found:
            raise DataError(f"{what} is no file at {shown(path)}: correct its path, or remove the row.")
        try:
            with path.open("rb") as file:
                return _open(file, what, convert)
        except OSError as error:
            raise DataError(f"{what} cannot be read ({_reason(error)}): {_CURE}.") from None
    raise DataError(f"{what} is a {type(value).__name__}, which is no image: give a path or encoded bytes.")


def _open(file: BinaryIO, what: str, convert: _Convert) -> LoadedImage:
    try:
        with Image.open(file) as image:
            pixels = _decode(image, what, convert)
        return _with_content(pixels, _digest(file))
    except UnidentifiedImageError:
        raise DataError(f"{what} is not an image that can be read: {_CURE}.") from None
    except _BOMBS:
        raise _too_large(what) from None
    except (DataError, MemoryError):
        raise
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        raise DataError(f"{what} cannot be read ({_reason(error)}): {_CURE}.") from None


def _decode(image: Image.Image, what: str, convert: _Convert) -> Tensor:
    if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise _too_large(what)
    try:
        pixels = torch.from_numpy(np.array(convert(ImageOps.exif_transpose(image), what)))
    except (DataError, MemoryError):
        raise
    except Exception as error:  # as above
        raise DataError(f"{what} cannot be decoded ({_reason(error)}): {_CURE}.") from None
    return pixels if pixels.dim() == 2 else pixels.permute(2, 0, 1).contiguous()


def _as_rgb(image: Image.Image, what: str) -> Image.Image:
    return as_rgb(_with_8_bits(image, what))


def _as_grey(image: Image.Image, what: str) -> Image.Image:
    image = _with_8_bits(image, what)
    if may_be_transparent(image):
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            raise DataError(
                f"{what} is transparent somewhere, which may mean either: save it without, white where the "
                "image is edited and black elsewhere."
            )
    return image.convert("L")


def _with_8_bits(image: Image.Image, what: str) -> Image.Image:
    if has_32_bits(image):
        raise DataError(f"{what} has 32-bit pixels, whose range is unknown: save it with 8 bits per colour.")
    return with_8_bits(image)


def _with_content(pixels: Tensor, key: str) -> LoadedImage:
    *_, height, width = pixels.shape
    return LoadedImage(pixels, ImageContent(key, height, width))


def _digest(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    file.seek(0)
    while block := file.read(2**20):
        digest.update(block)
    return digest.hexdigest()


def _too_large(what: str) -> DataError:
    return DataError(
        f"{what} has more than the {Image.MAX_IMAGE_PIXELS} pixels that Pillow takes for safe: scale it down."
    )


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split()).rstrip(".:")
