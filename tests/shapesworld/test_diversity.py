from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from danceopd.shapesworld import Task, TaskSet, measure_diversity, render
from danceopd.shapesworld.diversity import entropy
from danceopd.shapesworld.tasks import answers

POOLED = ("background", "position", "size")
TASKS = [TaskSet("t2i", "test")[row] for row in range(300)]
OTHERS = [TaskSet("t2i", "train")[row].target for row in range(300)]


def test_entropy_is_in_bits() -> None:
    assert entropy("aabb") == 1.0
    assert entropy("abcd") == 2.0
    assert entropy("aaaa") == 0.0
    assert entropy("") == 0.0
    assert entropy("aaab") == pytest.approx(0.811278)


def test_the_truth_is_as_varied_as_itself_and_as_other_rows() -> None:
    same = measure_diversity(render([task.target for task in TASKS]), TASKS)
    assert same.readable == 1.0
    assert all(same.ratio(name) == 1.0 for name in POOLED)
    other = measure_diversity(render(OTHERS), TASKS)
    assert other.lowest_ratio > 0.95
    assert all(other.truth[name] > 1.0 for name in POOLED)


@pytest.mark.parametrize("collapsed", POOLED)
def test_a_collapsed_property_shows(collapsed: str) -> None:
    scenes = OTHERS
    if collapsed == "background":
        scenes = [replace(scene, background=1) for scene in OTHERS]
    elif collapsed == "position":
        scenes = [replace(scene, things=(replace(scene.things[0], cell=2),)) for scene in OTHERS]
    else:
        scenes = [
            replace(scene, things=tuple(replace(thing, radius=2.9) for thing in scene.things))
            for scene in OTHERS
        ]
    diversity = measure_diversity(render(scenes), TASKS)
    assert diversity.ratio(collapsed) < 0.1
    assert diversity.lowest_ratio == diversity.ratio(collapsed)
    assert all(diversity.ratio(name) > 0.9 for name in POOLED if name != collapsed)


def test_unreadable_images_are_counted() -> None:
    images = render(OTHERS)
    images[::2] = torch.randn(images[::2].shape, generator=torch.Generator().manual_seed(0))
    diversity = measure_diversity(images, TASKS)
    assert diversity.readable == 0.5
    nothing = measure_diversity(torch.zeros_like(images) + float("nan"), TASKS)
    assert nothing.readable == 0.0
    assert nothing.lowest_ratio == 0.0


OPEN = [
    TaskSet((category,), "test")[0] for category in ("single", "two", "counting", "position", "subject-add")
]


# From the end of the drawn answers, so that they are not those that the measure compares with.
TRUE_ANSWERS = {task: answers(task, 40)[-12:] for task in OPEN}


def layout_ratio(repeats: list[tuple[Task, torch.Tensor]]) -> float:
    return measure_diversity(render([t.target for t in OPEN]), OPEN, repeats).ratio("layout")


def test_one_answer_per_prompt_has_no_layouts_however_varied_the_pool() -> None:
    varied = [(task, render(TRUE_ANSWERS[task])) for task in OPEN]
    settled = [(task, render([task.target] * 12)) for task in OPEN]
    assert layout_ratio(varied) == pytest.approx(1.0, abs=0.15)
    assert layout_ratio(settled) == 0.0
    half = [varied[0], varied[1], *settled[2:]]
    assert 0.2 < layout_ratio(half) < 0.8


def test_wrong_and_unreadable_answers_add_no_layouts() -> None:
    others = render([TaskSet("t2i", "train")[row].target for row in range(12)])
    wrong = [(task, torch.cat([render([task.target] * 6), others])) for task in OPEN[:1]]
    assert layout_ratio(wrong) < 0.5


def test_fewer_than_two_right_answers_say_nothing() -> None:
    wrong = torch.zeros(12, 3, 16, 16)
    once = torch.cat([wrong[:11], render([OPEN[1].target])])
    tasks, images = OPEN, render([t.target for t in OPEN])
    assert "layout" not in measure_diversity(images, tasks, [(OPEN[0], wrong), (OPEN[1], once)]).entropy
    varied = (OPEN[2], render(TRUE_ANSWERS[OPEN[2]]))
    alone = measure_diversity(images, tasks, [varied])
    assert measure_diversity(images, tasks, [varied, (OPEN[1], once)]) == alone


def test_without_repeats_there_is_no_layout() -> None:
    assert set(measure_diversity(render([t.target for t in OPEN]), OPEN).entropy) == set(POOLED)
