"""Images are scaled to cover a size and cropped to it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from danceopd.data import buckets
from danceopd.families.fitting import fitted, source_fit


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
def test_sources_are_scaled_down_and_cropped_never_up(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    source = fitted(image(*size), source_fit(*size, buckets(64, 16), 16))
    assert source.shape == (3, *wanted) and source.dtype == torch.uint8
    if size == wanted:
        assert torch.equal(source, image(*size))


def test_a_source_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="a source image of 8 x 40 pixels is too small"):
        source_fit(8, 40, buckets(64, 16), 16)
