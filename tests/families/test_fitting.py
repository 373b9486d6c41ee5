"""Images are scaled to cover a size and cropped to it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from danceopd.data import buckets
from danceopd.families.fitting import cover, fitted, source_fit


def image(height: int, width: int) -> Tensor:
    return (
        torch.arange(3 * height * width, dtype=torch.int64)
        .remainder(256)
        .to(torch.uint8)
        .view(3, height, width)
    )


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ((32, 48), (32, 48)),
        ((37, 50), (32, 48)),
        ((128, 128), (64, 64)),
        ((64, 256), (32, 128)),
        ((16, 16), (16, 16)),
    ],
)
def test_some_families_scale_sources_down_and_never_up(
    size: tuple[int, int], wanted: tuple[int, int]
) -> None:
    source = fitted(image(*size), source_fit(*size, buckets(64, 16), 16, scales_up=False))
    assert source.shape == (3, *wanted) and source.dtype == torch.uint8
    if size == wanted:
        assert torch.equal(source, image(*size))


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ((64, 64), (64, 64)),
        ((16, 16), (64, 64)),
        ((8, 10), (64, 64)),
        ((24, 40), (48, 80)),
        ((128, 128), (64, 64)),
        ((4, 16), (32, 128)),
        ((64, 256), (32, 128)),
    ],
)
def test_other_families_scale_small_sources_up(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    source = fitted(image(*size), source_fit(*size, buckets(64, 16), 16, scales_up=True))
    assert source.shape == (3, *wanted)


def test_a_source_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="a source image of 8 x 40 pixels is too small"):
        source_fit(8, 40, buckets(64, 16), 16, scales_up=False)


@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    rows=st.integers(1, 200),
    columns=st.integers(1, 200),
)
def test_what_covers_a_size_keeps_the_aspect_ratio_and_no_more(
    height: int, width: int, rows: int, columns: int
) -> None:
    (tall, wide), cropped = cover(height, width, (rows, columns))
    assert cropped == (rows, columns) and tall >= rows and wide >= columns
    assert tall == rows or wide == columns
    factor = max(rows / height, columns / width)
    assert abs(tall - height * factor) <= 1 and abs(wide - width * factor) <= 1


@pytest.mark.parametrize("size", [(16, 16), (32, 48), (100, 20), (64, 96)])
def test_an_image_is_brought_to_a_size_up_and_down(size: tuple[int, int]) -> None:
    brought = fitted(image(*size), cover(*size, (32, 48)))
    assert brought.shape == (3, 32, 48) and brought.dtype == torch.uint8 and brought.is_contiguous()


def test_what_is_left_over_is_cropped_around_the_center() -> None:
    middle = torch.zeros(3, 8, 24, dtype=torch.uint8)
    middle[:, :, 8:16] = 255
    assert (fitted(middle, cover(8, 24, (8, 8))) == 255).all()
