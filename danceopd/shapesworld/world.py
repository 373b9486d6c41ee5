"""The things that exist in ShapesWorld: shapes, colours, backgrounds, styles, and scenes made of them.

A scene is a 2 x 2 grid of cells, each empty or holding one object, over a plain background, seen in one
style. Images are 16 x 16 RGB; a cell is 8 x 8 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

VERSION = 1  # of all that a row is made of; raised when any row of any set becomes another one
IMAGE_SIZE = 16
CELL_SIZE = 8
NUM_CELLS = 4
CHANNELS = 3

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = ("red", "green", "blue", "yellow")
BACKGROUNDS = ("black", "grey", "white")
STYLES = ("plain", "sunset", "night")

JITTER = 0.5  # an object's centre lies at most this many pixels from its cell's centre, per axis
RADIUS = (2.7, 3.1)

# The light of a style falls on objects and background alike. The tables are spread so that every background,
# and every object, tells its style on its own: the closest two entries that must be told apart are 0.25 apart
# in RGB.
_COLOUR_RGB = np.array(
    [
        [[0.93, 0.12, 0.12], [0.10, 0.68, 0.18], [0.15, 0.35, 1.00], [0.99, 0.92, 0.10]],
        [[0.66, 0.00, 0.26], [0.44, 0.62, 0.00], [0.36, 0.22, 0.70], [1.00, 0.66, 0.00]],
        [[0.52, 0.10, 0.48], [0.00, 0.56, 0.38], [0.06, 0.10, 0.80], [0.60, 0.66, 0.42]],
    ]
)
_BACKGROUND_RGB = np.array(
    [
        [[0.04, 0.04, 0.04], [0.54, 0.54, 0.54], [0.98, 0.98, 0.98]],
        [[0.38, 0.06, 0.02], [0.82, 0.42, 0.20], [1.00, 0.80, 0.46]],
        [[0.02, 0.04, 0.34], [0.20, 0.32, 0.58], [0.52, 0.70, 0.96]],
    ]
)


def colour_palette() -> npt.NDArray[np.float32]:
    """RGB in [0, 1] of every object colour in every style, shape [styles, colours, 3]."""
    return _COLOUR_RGB.astype(np.float32)


def background_palette() -> npt.NDArray[np.float32]:
    """RGB in [0, 1] of every background in every style, shape [styles, backgrounds, 3]."""
    return _BACKGROUND_RGB.astype(np.float32)


@dataclass(frozen=True, slots=True)
class Thing:
    """One object: its cell (0 top-left, 1 top-right, 2 bottom-left, 3 bottom-right), looks, and exact place.

    `dx` and `dy` shift the centre from the cell's centre, in pixels within +-JITTER, to the right and down;
    `radius` is in pixels within RADIUS.
    """

    cell: int
    shape: int
    colour: int
    dx: float = 0.0
    dy: float = 0.0
    radius: float = 2.9

    @property
    def row(self) -> int:
        """Row of the cell: 0 at the top, 1 at the bottom."""
        return self.cell // 2

    @property
    def column(self) -> int:
        """Column of the cell: 0 on the left, 1 on the right."""
        return self.cell % 2


@dataclass(frozen=True, slots=True)
class Scene:
    """A background, a style, and up to four objects in different cells."""

    background: int
    style: int = 0
    things: tuple[Thing, ...] = ()

    def __post_init__(self) -> None:
        cells = [thing.cell for thing in self.things]
        if len(set(cells)) != len(cells):
            raise ValueError(f"things holds two objects in one cell ({cells}); give each object its own.")

    @property
    def free_cells(self) -> tuple[int, ...]:
        """Cells without an object, ascending."""
        taken = {thing.cell for thing in self.things}
        return tuple(cell for cell in range(NUM_CELLS) if cell not in taken)

    def with_thing(self, thing: Thing) -> Scene:
        """The scene with `thing` put in its cell, in place of what was there."""
        rest = tuple(other for other in self.things if other.cell != thing.cell)
        return replace(self, things=(*rest, thing))

    def without(self, thing: Thing) -> Scene:
        """The scene with `thing`'s cell emptied."""
        return replace(self, things=tuple(other for other in self.things if other.cell != thing.cell))
