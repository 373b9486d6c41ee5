"""A second judge, written from the words of a prompt alone: what the scorer must agree with."""

from __future__ import annotations

from danceopd.shapesworld import Scene
from danceopd.shapesworld.world import BACKGROUNDS, COLOURS, SHAPES, STYLES

NUMBERS = {"two": 2, "three": 3, "four": 4}
SINGULAR = {"circles": "circle", "squares": "square", "triangles": "triangle", "crosses": "cross"}


def says(prompt: str, source: Scene | None, scene: Scene) -> bool:
    """Whether `scene` is what the prompt asks for; places and sizes within a cell are not judged."""
    return caption_says(prompt, scene) if source is None else edit_says(prompt, source, scene)


def caption_says(prompt: str, scene: Scene) -> bool:
    *words, on, background = prompt.split()
    assert on == "on"
    if STYLES[scene.style] != "plain" or BACKGROUNDS[scene.background] != background:
        return False
    shown = [(COLOURS[thing.colour], SHAPES[thing.shape]) for thing in scene.things]
    match words:
        case [number, plural] if number in NUMBERS:
            return [shape for _, shape in shown] == [SINGULAR[plural]] * NUMBERS[number]
        case [first, "left" | "right" | "above" | "below" as relation, *_, second]:
            places = {SHAPES[thing.shape]: (thing.cell % 2, thing.cell // 2) for thing in scene.things}
            if len(shown) != 2 or places.keys() != {first, second}:
                return False
            (x, y), (other_x, other_y) = places[first], places[second]
            return {"left": x < other_x, "right": x > other_x, "above": y < other_y, "below": y > other_y}[
                relation
            ]
        case [colour, shape, "and", other_colour, other_shape]:
            return sorted(shown) == sorted([(colour, shape), (other_colour, other_shape)])
        case [shape, "and", other_shape]:
            return sorted(shape for _, shape in shown) == sorted([shape, other_shape])
        case [colour, shape]:
            return shown == [(colour, shape)]
        case [shape]:
            return [shape for _, shape in shown] == [shape]
    raise AssertionError(prompt)


def edit_says(prompt: str, source: Scene, scene: Scene) -> bool:
    before, after = _cells(source), _cells(scene)
    background, style = BACKGROUNDS[source.background], STYLES[source.style]
    match prompt.split():
        case ["add", colour, shape]:
            new = after.keys() - before.keys()
            kept = {cell: look for cell, look in after.items() if cell not in new}
            if kept != before or [after[cell] for cell in new] != [(colour, shape)]:
                return False
        case ["replace", colour, shape, "with", new_colour, new_shape]:
            if after != _swap(before, (colour, shape), (new_colour, new_shape)):
                return False
        case ["remove", colour, shape]:
            if after != _swap(before, (colour, shape), None):
                return False
        case ["make", "background", background]:
            if after != before:
                return False
        case ["make", "style", style]:
            if after != before:
                return False
        case ["make", colour, shape, new_colour]:
            if after != _swap(before, (colour, shape), (new_colour, shape)):
                return False
        case _:
            raise AssertionError(prompt)
    return (BACKGROUNDS[scene.background], STYLES[scene.style]) == (background, style)


Look = tuple[str, str]


def _cells(scene: Scene) -> dict[int, Look]:
    return {thing.cell: (COLOURS[thing.colour], SHAPES[thing.shape]) for thing in scene.things}


def _swap(cells: dict[int, Look], old: Look, new: Look | None) -> dict[int, Look]:
    swapped = {cell: new if look == old else look for cell, look in cells.items()}
    return {cell: look for cell, look in swapped.items() if look is not None}
