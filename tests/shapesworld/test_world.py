from __future__ import annotations

import numpy as np
import pytest

from danceopd.shapesworld import Scene, Thing
from danceopd.shapesworld.world import background_palette, colour_palette


@pytest.mark.parametrize("palette", [colour_palette(), background_palette()], ids=["colours", "backgrounds"])
def test_no_two_entries_of_a_palette_look_alike(palette: np.ndarray) -> None:
    """Every background, and every object, tells its style on its own."""
    entries = palette.reshape(-1, 3)
    distance = np.linalg.norm(entries[:, None] - entries[None], axis=-1)
    assert distance[~np.eye(len(entries), dtype=bool)].min() >= 0.25
    assert entries.min() >= 0 and entries.max() <= 1


def test_every_object_stands_out_from_every_background() -> None:
    distance = np.linalg.norm(colour_palette()[:, :, None] - background_palette()[:, None], axis=-1)
    assert distance.min() >= 0.3


def test_cells_are_counted_row_by_row() -> None:
    assert [(Thing(cell, 0, 0).row, Thing(cell, 0, 0).column) for cell in range(4)] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    ]


def test_a_cell_holds_one_object() -> None:
    with pytest.raises(ValueError, match="two objects in one cell"):
        Scene(0, 0, (Thing(1, 0, 0), Thing(1, 1, 1)))


def test_scenes_change_by_copy() -> None:
    circle, square = Thing(0, 0, 0), Thing(2, 1, 1)
    scene = Scene(1, 0, (circle, square))
    assert scene.free_cells == (1, 3)
    assert scene.without(circle) == Scene(1, 0, (square,))
    other = Thing(0, 3, 3)
    assert set(scene.with_thing(other).things) == {other, square}
    assert scene.things == (circle, square)
