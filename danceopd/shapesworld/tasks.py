"""What can be asked of a model in ShapesWorld: six kinds of caption, six kinds of edit, endless rows of each.

The text-to-image categories are GenEval's; the edit categories are those of GEdit-Bench that DanceOPD reports
(arXiv 2606.27377, section on evaluation). Row `i` of a task is a pure function of (split, task, i).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice

import numpy as np

from .language import NUMBERS, PLURALS, RELATIONS
from .world import BACKGROUNDS, COLOURS, JITTER, NUM_CELLS, RADIUS, SHAPES, STYLES, Scene, Thing

T2I_CATEGORIES = ("single", "two", "counting", "colours", "position", "colour-attribution")
LOCAL_CATEGORIES = ("subject-add", "subject-replace", "subject-remove", "colour-alter")
GLOBAL_CATEGORIES = ("background-change", "style-change")
EDIT_CATEGORIES = LOCAL_CATEGORIES + GLOBAL_CATEGORIES

GROUNDS: dict[str, tuple[str, ...]] = {
    "t2i": T2I_CATEGORIES,
    "local": LOCAL_CATEGORIES,
    "global": GLOBAL_CATEGORIES,
    "edit": EDIT_CATEGORIES,
}
"""The capabilities that an expert can hold, each with the categories it is trained and scored on."""

# Rows of different splits never share a random stream. Settings are chosen on validation rows, models judged
# on test rows, and `answers` draws from rows of its own.
SPLITS = {"train": 0, "test": 1, "validation": 2, "answers": 3}


@dataclass(frozen=True, slots=True)
class Task:
    """One row: the prompt, a scene that fulfils it, and for edits the scene it starts from.

    `target` is one valid answer of possibly many; `scorer.fulfils` decides about any image.
    """

    category: str
    prompt: str
    target: Scene
    source: Scene | None = None


Random = np.random.Generator


def _pick(random: Random, count: int) -> int:
    return int(random.integers(count))


def _two(random: Random, count: int) -> tuple[int, int]:
    first = _pick(random, count)
    return first, (first + 1 + _pick(random, count - 1)) % count


def _thing(random: Random, cell: int, shape: int, colour: int) -> Thing:
    dx, dy = random.uniform(-JITTER, JITTER, 2)
    return Thing(cell, shape, colour, float(dx), float(dy), float(random.uniform(*RADIUS)))


def _single(random: Random) -> Task:
    shape, background = _pick(random, len(SHAPES)), _pick(random, len(BACKGROUNDS))
    thing = _thing(random, _pick(random, NUM_CELLS), shape, _pick(random, len(COLOURS)))
    return Task("single", f"{SHAPES[shape]} on {BACKGROUNDS[background]}", Scene(background, 0, (thing,)))


def _colours(random: Random) -> Task:
    shape, colour = _pick(random, len(SHAPES)), _pick(random, len(COLOURS))
    background = _pick(random, len(BACKGROUNDS))
    thing = _thing(random, _pick(random, NUM_CELLS), shape, colour)
    return Task("colours", f"{_name(thing)} on {BACKGROUNDS[background]}", Scene(background, 0, (thing,)))


def _counting(random: Random) -> Task:
    shape, background = _pick(random, len(SHAPES)), _pick(random, len(BACKGROUNDS))
    colour, count = _pick(random, len(COLOURS)), 2 + _pick(random, 3)
    cells = random.permutation(NUM_CELLS)[:count]
    things = tuple(_thing(random, int(cell), shape, colour) for cell in cells)
    prompt = f"{NUMBERS[count]} {PLURALS[SHAPES[shape]]} on {BACKGROUNDS[background]}"
    return Task("counting", prompt, Scene(background, 0, things))


def _pair(random: Random, cells: tuple[int, int]) -> tuple[int, Thing, Thing]:
    (shape, other), (colour, second) = _two(random, len(SHAPES)), _two(random, len(COLOURS))
    first, last = _thing(random, cells[0], shape, colour), _thing(random, cells[1], other, second)
    return _pick(random, len(BACKGROUNDS)), first, last


def _two_objects(random: Random) -> Task:
    background, a, b = _pair(random, _two(random, NUM_CELLS))
    prompt = f"{SHAPES[a.shape]} and {SHAPES[b.shape]} on {BACKGROUNDS[background]}"
    return Task("two", prompt, Scene(background, 0, (a, b)))


def _colour_attribution(random: Random) -> Task:
    background, a, b = _pair(random, _two(random, NUM_CELLS))
    prompt = f"{_name(a)} and {_name(b)} on {BACKGROUNDS[background]}"
    return Task("colour-attribution", prompt, Scene(background, 0, (a, b)))


def _position(random: Random) -> Task:
    relation = tuple(RELATIONS)[_pick(random, len(RELATIONS))]
    line = _pick(random, 2)
    near, far = (2 * line, 2 * line + 1) if relation in ("left", "right") else (line, line + 2)
    cells = (near, far) if relation in ("left", "above") else (far, near)
    background, a, b = _pair(random, cells)
    prompt = f"{SHAPES[a.shape]} {RELATIONS[relation]} {SHAPES[b.shape]} on {BACKGROUNDS[background]}"
    return Task("position", prompt, Scene(background, 0, (a, b)))


def _source(random: Random, fewest: int, most: int) -> Scene:
    """A plain scene whose objects all differ in (shape, colour), so that words can point at each."""
    count = fewest + _pick(random, most - fewest + 1)
    looks = random.permutation(len(SHAPES) * len(COLOURS))[:count]
    cells = random.permutation(NUM_CELLS)[:count]
    things = tuple(
        _thing(random, int(cell), int(look) // len(COLOURS), int(look) % len(COLOURS))
        for cell, look in zip(cells, looks, strict=True)
    )
    return Scene(_pick(random, len(BACKGROUNDS)), 0, things)


def _new_look(random: Random, scene: Scene) -> tuple[int, int]:
    """A (shape, colour) that no object of the scene has."""
    taken = {(thing.shape, thing.colour) for thing in scene.things}
    looks = [(s, c) for s in range(len(SHAPES)) for c in range(len(COLOURS)) if (s, c) not in taken]
    return looks[_pick(random, len(looks))]


def _name(thing: Thing) -> str:
    return f"{COLOURS[thing.colour]} {SHAPES[thing.shape]}"


def _subject_add(random: Random) -> Task:
    source = _source(random, 1, 3)
    cell = source.free_cells[_pick(random, len(source.free_cells))]
    thing = _thing(random, cell, *_new_look(random, source))
    return Task("subject-add", f"add {_name(thing)}", source.with_thing(thing), source)


def _subject_replace(random: Random) -> Task:
    source = _source(random, 1, 3)
    old = source.things[0]
    new = _thing(random, old.cell, *_new_look(random, source))
    return Task("subject-replace", f"replace {_name(old)} with {_name(new)}", source.with_thing(new), source)


def _subject_remove(random: Random) -> Task:
    source = _source(random, 2, 3)
    old = source.things[0]
    return Task("subject-remove", f"remove {_name(old)}", source.without(old), source)


def _colour_alter(random: Random) -> Task:
    source = _source(random, 1, 3)
    old = source.things[0]
    taken = {thing.colour for thing in source.things if thing.shape == old.shape}
    colours = [colour for colour in range(len(COLOURS)) if colour not in taken]
    new = replace(old, colour=colours[_pick(random, len(colours))])
    return Task("colour-alter", f"make {_name(old)} {COLOURS[new.colour]}", source.with_thing(new), source)


def _background_change(random: Random) -> Task:
    source = _source(random, 1, 3)
    background = (source.background + 1 + _pick(random, len(BACKGROUNDS) - 1)) % len(BACKGROUNDS)
    target = replace(source, background=background)
    return Task("background-change", f"make background {BACKGROUNDS[background]}", target, source)


def _style_change(random: Random) -> Task:
    source = _source(random, 1, 3)
    before, after = _two(random, len(STYLES))
    source = replace(source, style=before)
    return Task("style-change", f"make style {STYLES[after]}", replace(source, style=after), source)


_MAKERS: dict[str, Callable[[Random], Task]] = {
    "single": _single,
    "two": _two_objects,
    "counting": _counting,
    "colours": _colours,
    "position": _position,
    "colour-attribution": _colour_attribution,
    "subject-add": _subject_add,
    "subject-replace": _subject_replace,
    "subject-remove": _subject_remove,
    "colour-alter": _colour_alter,
    "background-change": _background_change,
    "style-change": _style_change,
}


class TaskSet:
    """Endless rows of some categories in turn: row `i` is of category `i mod len(categories)`, always the
    same.

    Args:
        categories: a ground's name ("t2i", "local", "global", "edit") or the categories themselves.
        split: "train", "validation", "test" or "answers".
    """

    ROWS = 2**31  # more than any run draws, and small enough for every integer type on the way

    def __init__(self, categories: str | Iterable[str], split: str = "train") -> None:
        if isinstance(categories, str):
            if categories not in GROUNDS:
                raise ValueError(f"ground {categories!r} is unknown; choose one of {', '.join(GROUNDS)}.")
            categories = GROUNDS[categories]
        self.categories = tuple(categories)
        if not self.categories:
            raise ValueError("categories is empty; name at least one.")
        for category in self.categories:
            if category not in _MAKERS:
                raise ValueError(f"category {category!r} is unknown; choose from {', '.join(_MAKERS)}.")
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is unknown; choose one of {', '.join(SPLITS)}.")
        self.split = split

    def __len__(self) -> int:
        return self.ROWS

    def __getitem__(self, row: int) -> Task:
        if not 0 <= row < self.ROWS:
            raise IndexError(f"row {row} is outside 0..{self.ROWS - 1}.")
        category = self.categories[row % len(self.categories)]
        stream = np.random.SeedSequence(row, spawn_key=(SPLITS[self.split], tuple(_MAKERS).index(category)))
        return _MAKERS[category](np.random.Generator(np.random.PCG64(stream)))

    def __iter__(self) -> Iterator[Task]:
        return (self[row] for row in range(self.ROWS))


@cache
def answers(task: Task, count: int) -> tuple[Scene, ...]:
    """`count` scenes that fulfil a task, drawn as its category draws them: how varied the truth is.

    A caption leaves cells, sizes and, where it names none, colours open. Of the edits only an addition leaves
    the layout open, namely the cell; the answers of the others are all `task.target`.
    """
    if task.source is None:
        rows = TaskSet((task.category,), "answers")
        return tuple(islice((row.target for row in rows if row.prompt == task.prompt), count))
    added = [thing for thing in task.target.things if thing.cell in task.source.free_cells]
    if not added:
        return (task.target,) * count
    cells, random = task.source.free_cells, np.random.default_rng(0)
    draws = [(cells[_pick(random, len(cells))], added[0]) for _ in range(count)]
    return tuple(
        task.source.with_thing(_thing(random, cell, thing.shape, thing.colour)) for cell, thing in draws
    )
