from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danceopd.shapesworld import Scene, Thing, render
from danceopd.shapesworld.render import from_pixels, to_pixels
from danceopd.shapesworld.world import SHAPES, background_palette, colour_palette
from tests.shapesworld.strategies import scenes


@settings(deadline=None, max_examples=50)
@given(st.lists(scenes(), min_size=1, max_size=5))
def test_a_batch_is_its_scenes_one_by_one(some: list[Scene]) -> None:
    images = render(some)
    assert images.dtype == torch.float32
    assert images.shape == (len(some), 3, 16, 16)
    assert images.min() >= -1 and images.max() <= 1
    assert torch.equal(images, torch.cat([render([scene]) for scene in some]))


def test_the_order_of_objects_does_not_matter() -> None:
    scene = Scene(0, 1, (Thing(0, 0, 1), Thing(3, 2, 2)))
    assert torch.equal(render([scene]), render([Scene(0, 1, scene.things[::-1])]))


@pytest.mark.parametrize("style", range(3))
def test_an_empty_scene_is_its_background(style: int) -> None:
    for background in range(3):
        colour = torch.from_numpy(background_palette()[style, background]) * 2 - 1
        assert torch.equal(render([Scene(background, style)])[0], colour[:, None, None].expand(3, 16, 16))


@pytest.mark.parametrize("shape", range(len(SHAPES)))
@pytest.mark.parametrize("cell", range(4))
def test_a_shape_is_anti_aliased_and_stays_in_its_cell(shape: int, cell: int) -> None:
    for thing in (Thing(cell, shape, 0, 0.5, -0.5, 3.1), Thing(cell, shape, 0, -0.5, 0.5, 2.7)):
        image, empty = render([Scene(0, 0, (thing,)), Scene(0)])
        paint = torch.from_numpy(colour_palette()[0, 0]) * 2 - 1
        share = ((image - empty) / (paint[:, None, None] - empty)).mean(0)
        assert share.max() == pytest.approx(1.0, abs=1e-5)
        assert ((share > 0.05) & (share < 0.95)).sum() >= 3  # outlines are mixed with what is behind
        inside = torch.zeros(16, 16, dtype=torch.bool)
        inside[8 * thing.row : 8 * thing.row + 8, 8 * thing.column : 8 * thing.column + 8] = True
        assert share[~inside].abs().max() < 0.07  # the tip of a large triangle looks over the edge
        assert 8 < share.sum() < 40


def test_shapes_differ() -> None:
    images = render([Scene(0, 0, (Thing(0, shape, 0),)) for shape in range(len(SHAPES))])
    distance = torch.cdist(images.flatten(1), images.flatten(1)) + 99 * torch.eye(len(SHAPES))
    assert distance.min() > 2


def test_triangles_point_up() -> None:
    image = render([Scene(0, 0, (Thing(0, 2, 0),))])[0, 0]
    widths = (image > 0).sum(1)[:8]
    widths = widths[widths > 0]
    assert widths.tolist() == sorted(widths.tolist()) and widths[0] < widths[-1]


def test_pixels_go_there_and_back() -> None:
    bytes_ = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_pixels(from_pixels(bytes_)), bytes_)
    assert to_pixels(torch.tensor([-9.0, -1.0, 0.0, 1.0, 9.0])).tolist() == [0, 0, 128, 255, 255]
    assert render([]).shape == (0, 3, 16, 16)


def test_pixels_of_another_dtype_are_refused() -> None:
    with pytest.raises(ValueError, match=r"image is torch\.float32"):
        from_pixels(torch.zeros(3, 16, 16))
