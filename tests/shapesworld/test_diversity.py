from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from danceopd.shapesworld import TaskSet, measure_diversity, render
from danceopd.shapesworld.diversity import PROPERTIES, entropy

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
    assert all(same.ratio(name) == 1.0 for name in PROPERTIES)
    other = measure_diversity(render(OTHERS), TASKS)
    assert other.lowest_ratio > 0.95
    assert all(other.truth[name] > 1.0 for name in PROPERTIES)


@pytest.mark.parametrize("collapsed", PROPERTIES)
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
    assert all(diversity.ratio(name) > 0.9 for name in PROPERTIES if name != collapsed)


def test_unreadable_images_are_counted() -> None:
    images = render(OTHERS)
    images[::2] = torch.randn(images[::2].shape, generator=torch.Generator().manual_seed(0))
    diversity = measure_diversity(images, TASKS)
    assert diversity.readable == 0.5
    nothing = measure_diversity(torch.zeros_like(images) + float("nan"), TASKS)
    assert nothing.readable == 0.0
    assert nothing.lowest_ratio == 0.0
