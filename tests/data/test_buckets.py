from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danceopd.data import buckets, nearest_bucket

RESOLUTIONS = st.integers(1, 4096)
MULTIPLES = st.sampled_from([1, 8, 16, 32, 64, 100])
SIDES = st.integers(1, 20_000)


@given(RESOLUTIONS, MULTIPLES)
def test_sides_are_multiples_and_ratios_at_most_two(resolution: int, multiple: int) -> None:
    resolution = max(resolution, multiple)
    sizes = buckets(resolution, multiple)
    assert len(set(sizes)) == len(sizes)
    for height, width in sizes:
        assert height >= multiple and width >= multiple
        assert height % multiple == width % multiple == 0
        assert max(height, width) <= 2 * min(height, width)
        assert (width, height) in sizes
        if height != width:
            assert abs(height * width / resolution**2 - 1) <= min(0.25, math.sqrt(2) * multiple / resolution)
        else:
            assert abs(height - resolution) <= multiple / 2
    ratios = [height / width for height, width in sizes]
    assert ratios == sorted(ratios) and 1.0 in ratios


@pytest.mark.parametrize("multiple", [8, 16, 32])
@pytest.mark.parametrize("resolution", [512, 768, 1024, 1536])
def test_there_are_about_eleven_at_the_usual_sizes(resolution: int, multiple: int) -> None:
    sizes = buckets(resolution, multiple)
    assert 9 <= len(sizes) <= 11
    assert sizes[-1][0] / sizes[-1][1] == pytest.approx(2, abs=0.13)
    assert sizes[len(sizes) // 2] == (resolution, resolution)


def test_a_known_ladder() -> None:
    wide = ((720, 1440), (768, 1360), (832, 1264), (880, 1184), (912, 1152))
    tall = tuple((width, height) for height, width in reversed(wide))
    assert buckets(1024, 16) == (*wide, (1024, 1024), *tall)


@given(SIDES, SIDES, st.integers(256, 2048), st.sampled_from([8, 16, 32]))
def test_the_nearest_is_the_nearest_and_turns_with_the_image(
    height: int, width: int, resolution: int, multiple: int
) -> None:
    sizes = buckets(resolution, multiple)
    found = nearest_bucket(height, width, sizes)

    def distance(size: tuple[int, int]) -> float:
        return abs(math.log(size[0] / size[1]) - math.log(height / width))

    assert distance(found) <= min(map(distance, sizes)) + 1e-12
    assert nearest_bucket(width, height, sizes) == found[::-1]


@given(st.integers(64, 2048), st.sampled_from([8, 16, 32]))
def test_a_bucket_is_its_own(resolution: int, multiple: int) -> None:
    for size in buckets(resolution, multiple):
        assert nearest_bucket(*size, buckets(resolution, multiple)) == size


@pytest.mark.parametrize(
    ("resolution", "multiple", "words"),
    [
        (512, 0, "multiple must be at least 1, got 0"),
        (8, 16, "resolution must be at least multiple=16, got 8"),
    ],
)
def test_a_ladder_that_cannot_be_is_one_sentence(resolution: int, multiple: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        buckets(resolution, multiple)


def test_an_image_that_cannot_be_is_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"at least 1 x 1 pixels, got 0 x 4"):
        nearest_bucket(0, 4, [(8, 8)])
    with pytest.raises(ValueError, match=r"buckets is empty"):
        nearest_bucket(4, 4, [])
