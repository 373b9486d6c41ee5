"""Scenes, tasks, and near misses of them."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from danceopd.shapesworld import GROUNDS, Scene, Task, TaskSet, Thing
from danceopd.shapesworld.world import BACKGROUNDS, COLOURS, JITTER, NUM_CELLS, RADIUS, SHAPES, STYLES

CATEGORIES = GROUNDS["t2i"] + GROUNDS["edit"]


def things(cell: int) -> st.SearchStrategy[Thing]:
    shift = st.floats(-JITTER, JITTER, width=32)
    shapes, colours = st.integers(0, len(SHAPES) - 1), st.integers(0, len(COLOURS) - 1)
    return st.builds(Thing, st.just(cell), shapes, colours, shift, shift, st.floats(*RADIUS))


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    cells = draw(st.sets(st.integers(0, NUM_CELLS - 1)))
    return Scene(
        draw(st.integers(0, len(BACKGROUNDS) - 1)),
        draw(st.integers(0, len(STYLES) - 1)),
        tuple(draw(things(cell)) for cell in sorted(cells)),
    )


def tasks(categories: tuple[str, ...] = CATEGORIES) -> st.SearchStrategy[Task]:
    rows = st.integers(0, 10_000)
    return st.builds(
        lambda category, row: TaskSet((category,), "test")[row], st.sampled_from(categories), rows
    )


@st.composite
def near_misses(draw: st.DrawFn, scene: Scene) -> Scene:
    """The scene with one thing wrong."""
    kinds = ["background", "style"]
    kinds += ["colour", "shape", "missing"] if scene.things else []
    kinds += ["extra"] if scene.free_cells else []
    kinds += ["cell"] if scene.things and scene.free_cells else []
    kind = draw(st.sampled_from(kinds))
    if kind == "background":
        return replace(scene, background=draw(_other(scene.background, len(BACKGROUNDS))))
    if kind == "style":
        return replace(scene, style=draw(_other(scene.style, len(STYLES))))
    if kind == "extra":
        return scene.with_thing(draw(things(draw(st.sampled_from(scene.free_cells)))))
    thing = draw(st.sampled_from(scene.things))
    if kind == "missing":
        return scene.without(thing)
    if kind == "cell":
        return scene.without(thing).with_thing(replace(thing, cell=draw(st.sampled_from(scene.free_cells))))
    if kind == "colour":
        return scene.with_thing(replace(thing, colour=draw(_other(thing.colour, len(COLOURS)))))
    return scene.with_thing(replace(thing, shape=draw(_other(thing.shape, len(SHAPES)))))


def _other(value: int, count: int) -> st.SearchStrategy[int]:
    return st.integers(0, count - 1).filter(lambda other: other != value)
