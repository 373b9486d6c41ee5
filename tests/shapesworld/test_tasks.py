from __future__ import annotations

from collections import Counter

import pytest

from danceopd.data import content_key
from danceopd.shapesworld import GROUNDS, TaskSet, render, score
from danceopd.shapesworld.family import as_example
from danceopd.shapesworld.tasks import answers
from danceopd.shapesworld.world import JITTER, RADIUS, VERSION
from tests.shapesworld.judge import says
from tests.shapesworld.strategies import CATEGORIES


@pytest.mark.parametrize("ground", GROUNDS)
def test_categories_take_turns(ground: str) -> None:
    tasks = TaskSet(ground)
    assert [tasks[row].category for row in range(24)] == [
        GROUNDS[ground][row % len(GROUNDS[ground])] for row in range(24)
    ]


def test_a_category_may_be_named_twice() -> None:
    counts = Counter(TaskSet(("single", "two", "two"))[row].category for row in range(30))
    assert counts == {"single": 10, "two": 20}


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_row_is_a_pure_function_of_split_and_row(category: str) -> None:
    train, test = TaskSet((category,), "train"), TaskSet((category,), "test")
    first = [train[row] for row in range(50)]
    assert [train[row] for row in reversed(range(50))] == first[::-1]
    assert [TaskSet((category,), "train")[row] for row in range(50)] == first
    assert all(task != test[row] for row, task in enumerate(first))
    assert len(set(first)) == 50


def test_the_same_row_of_two_grounds_is_the_same_task() -> None:
    """A row belongs to its category, not to the set it is read through."""
    assert TaskSet(GROUNDS["local"])[8] == TaskSet(("subject-add",))[8]


@pytest.mark.parametrize("category", CATEGORIES)
def test_targets_are_what_the_words_say(category: str) -> None:
    tasks = TaskSet((category,))
    for row in range(300):
        task = tasks[row]
        assert says(task.prompt, task.source, task.target), task
        for thing in task.target.things:
            assert max(abs(thing.dx), abs(thing.dy)) <= JITTER
            assert RADIUS[0] <= thing.radius <= RADIUS[1]


@pytest.mark.parametrize("category", GROUNDS["edit"])
def test_words_point_at_one_object_of_a_source(category: str) -> None:
    tasks = TaskSet((category,))
    for row in range(300):
        task = tasks[row]
        assert task.source is not None and task.source != task.target
        for scene in (task.source, task.target):
            looks = [(thing.shape, thing.colour) for thing in scene.things]
            assert len(set(looks)) == len(looks)
        kept = set(task.source.things) & set(task.target.things)
        assert len(task.source.things) - len(kept) <= 1  # to the exact place and size


@pytest.mark.parametrize("category", GROUNDS["t2i"])
def test_captions_have_no_source(category: str) -> None:
    assert all(TaskSet((category,))[row].source is None for row in range(20))


def test_backgrounds_and_cells_are_even() -> None:
    tasks = [TaskSet("t2i")[row] for row in range(3000)]
    backgrounds = Counter(task.target.background for task in tasks)
    cells = Counter(thing.cell for task in tasks for thing in task.target.things)
    assert all(abs(count / 1000 - 1) < 0.1 for count in backgrounds.values())
    assert all(abs(4 * count / cells.total() - 1) < 0.1 for count in cells.values())


@pytest.mark.parametrize(
    ("categories", "split", "message"),
    [
        ("globe", "train", "ground 'globe' is unknown; choose one of t2i, local, global, edit."),
        (("single", "triple"), "train", "category 'triple' is unknown"),
        ((), "train", "categories is empty"),
        ("t2i", "val", "split 'val' is unknown; choose one of train, test, validation, answers."),
    ],
)
def test_unknown_names_are_refused(categories: str | tuple[str, ...], split: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        TaskSet(categories, split)
    assert message in str(error.value)


def test_rows_have_bounds() -> None:
    tasks = TaskSet("t2i")
    assert tasks[len(tasks) - 1].prompt
    for row in (-1, len(tasks)):
        with pytest.raises(IndexError, match=f"row {row} is outside"):
            tasks[row]


@pytest.mark.parametrize("category", CATEGORIES)
def test_answers_fulfil_their_task(category: str) -> None:
    for row in range(5):
        task = TaskSet((category,), "test")[row]
        scenes = answers(task, 6)
        assert len(scenes) == 6
        assert score(render(scenes), [task] * 6) == [True] * 6
        assert answers(task, 6) == scenes


@pytest.mark.parametrize("category", ["single", "two", "counting", "subject-add"])
def test_answers_are_as_varied_as_the_task_leaves_open(category: str) -> None:
    tasks = [TaskSet((category,), "test")[row] for row in range(8)]
    cells = [{frozenset(t.cell for t in scene.things) for scene in answers(task, 16)} for task in tasks]
    assert max(map(len, cells)) > 1
    if category == "subject-add":
        assert [len(c) for c in cells] == [len(task.source.free_cells) for task in tasks if task.source]


def test_rows_of_this_version_of_the_world_stay_what_they_are() -> None:
    """Runs resume on the promise that these do not change: when they do, `world.VERSION` must be raised."""
    rows = [TaskSet(ground)[row] for ground in GROUNDS for row in range(12)]
    scenes = content_key([[row.category, row.prompt, repr(row.target), repr(row.source)] for row in rows])
    pixels = sum(int(as_example(row).target.sum()) for row in rows)
    assert (VERSION, scenes[:16]) == (1, "698039be56a04201")
    assert pixels == pytest.approx(5201470, rel=1e-4)
