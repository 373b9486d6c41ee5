from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from danceopd.data.errors import DataError
from danceopd.data.images import load_image, load_mask
from tests.data import pictures

WHAT = "the source of row 1 of a.csv"


def load(value: object, folder: Path = Path()) -> np.ndarray:
    image, _ = load_image(value, folder, WHAT)
    assert image.dtype == torch.uint8 and image.is_contiguous() and image.shape[0] == 3
    return image.permute(1, 2, 0).numpy()


def png(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG", **options)
    return file.getvalue()


def test_images_come_from_anywhere(tmp_path: Path) -> None:
    wanted = pictures.save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    values = [
        "a.png",
        str(tmp_path / "a.png"),
        Path("a.png"),
        content,
        bytearray(content),
        {"bytes": content, "path": "elsewhere.png"},
        {"bytes": None, "path": "a.png"},
        Image.open(tmp_path / "a.png"),
    ]
    for value in values:
        assert np.array_equal(load(value, tmp_path), wanted)


def test_a_rotated_photo_stands_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    turned = load(png(Image.fromarray(pictures.pixels(6, 4)), exif=exif))
    assert np.array_equal(turned, np.rot90(pictures.pixels(6, 4), -1))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "L", "RGB"])
def test_what_is_transparent_is_white(mode: str) -> None:
    if mode in ("RGBA", "LA"):
        content = png(Image.new("RGBA", (2, 2), (10, 20, 30, 0)).convert(mode))
    elif mode == "PA":
        image = Image.new("RGBA", (2, 2), (10, 20, 30, 0)).convert("PA")
        assert (load(image) == 255).all()
        return
    elif mode == "P":
        content = png(Image.new("RGB", (2, 2), (10, 20, 30)).quantize(2), transparency=0)
    else:
        colour = 10 if mode == "L" else (10, 20, 30)
        content = png(Image.new(mode, (2, 2), colour), transparency=colour)
    assert (load(content) == 255).all()


def test_half_transparent_is_half_white() -> None:
    assert (load(png(Image.new("RGBA", (1, 1), (0, 0, 0, 128)))) == 127).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = Image.new("RGB", (3, 2), "white").convert(mode)
    assert load(image).shape == (2, 3, 3) and (load(image) == 255).all()


def test_sixteen_bit_greys_keep_their_range() -> None:
    greys = np.array([[0, 0x1234, 0x80FF, 0xFFFF]], dtype=np.uint16)
    assert load(png(Image.fromarray(greys)))[0, :, 0].tolist() == [0, 0x12, 0x80, 0xFF]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_of_unknown_range_are_one_sentence(mode: str) -> None:
    with pytest.raises(DataError, match=r"has 32-bit pixels, whose range is unknown: save it with 8 bits"):
        load(Image.new(mode, (2, 2)))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_a_truncated_image_is_one_sentence(tmp_path: Path, format: str) -> None:
    file = io.BytesIO()
    Image.fromarray(pictures.pixels(64, 64)).save(file, format=format)
    (tmp_path / "a.img").write_bytes(file.getvalue()[: len(file.getvalue()) // 2])
    with pytest.raises(
        DataError, match=rf"{WHAT} \('a.img'\) (cannot be|is not an image).*: replace the image"
    ):
        load("a.img", tmp_path)


@given(st.data())
def test_a_damaged_image_is_one_sentence_or_an_image(data: st.DataObject) -> None:
    content = bytearray(pictures.encoded(data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "BMP"]))))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        load(bytes(content))
    except DataError as error:
        assert str(error).startswith(WHAT) and "\n" not in str(error)
    except Warning:
        pass  # Pillow's remarks, errors here alone


@pytest.mark.parametrize("content", [b"", b"prompt\n", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_one_sentence(content: bytes) -> None:
    with pytest.raises(DataError, match=r"is not an image that can be read|cannot be read"):
        load(content)


@pytest.mark.parametrize("side", [12_000, 60_000])
def test_a_decompression_bomb_is_one_sentence(side: int) -> None:
    head = b"IHDR" + struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    import zlib

    chunk = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    end = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    data = b"IDAT" + zlib.compress(b"\0" * 100)
    body = struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    with pytest.raises(DataError, match=r"has more than the 89478485 pixels that Pillow takes for safe"):
        load(b"\x89PNG\r\n\x1a\n" + chunk + body + end)


def mask_of(value: object, folder: Path = Path()) -> list[list[int]]:
    mask, content = load_mask(value, folder, "the mask of row 1 of a.csv")
    assert mask.dtype == torch.uint8 and mask.shape == (content.height, content.width)
    return mask.tolist()


GREYS = [[0, 100, 255], [255, 7, 0]]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_a_mask_is_grey_whatever_it_is_saved_as(mode: str) -> None:
    assert mask_of(png(Image.fromarray(np.array(GREYS, np.uint8)).convert(mode))) == GREYS


def test_masks_of_two_values_and_of_16_bits_are_grey_too() -> None:
    two = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    assert mask_of(png(two)) == mask_of(two) == [[0, 255]]
    assert mask_of(png(Image.fromarray(np.array([[0, 65535, 40000]], np.uint16)))) == [[0, 255, 156]]


def test_a_mask_stands_upright_like_its_photo() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = png(Image.fromarray(np.array(GREYS, np.uint8)), exif=exif)
    assert mask_of(turned) == np.rot90(GREYS, -1).tolist()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (png(Image.new("L", (4, 4))), "is black all over and marks nothing"),
        (png(Image.new("L", (4, 4), 1)), "has no value above 1, but white is 255"),
        (png(Image.new("LA", (4, 4), (255, 100))), "is transparent somewhere"),
        (b"no image", "is not an image that can be read"),
    ],
)
def test_a_mask_that_cannot_be_meant_is_one_sentence(content: bytes, words: str) -> None:
    with pytest.raises(DataError, match=rf"^the mask of row 1 of a.csv {words}"):
        mask_of(content)
