from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danceopd.shapesworld import GROUNDS, Scene, Task, TaskSet, Thing, read, render, score
from danceopd.shapesworld.render import from_pixels, to_pixels
from danceopd.shapesworld.scorer import MAX_GROWTH, MAX_MOVE, fulfils
from danceopd.shapesworld.world import NUM_CELLS
from tests.shapesworld.judge import says
from tests.shapesworld.strategies import CATEGORIES, near_misses, scenes, tasks

ROWS = 200


def rows(category: str, count: int = ROWS) -> list[Task]:
    task_set = TaskSet((category,), "test")
    return [task_set[row] for row in range(count)]


def sources(some: list[Task]) -> list[Scene]:
    return [task.source for task in some if task.source is not None]


def by_looks(scene: Scene) -> tuple[int, int, list[tuple[int, int, int]]]:
    looks = sorted((thing.cell, thing.shape, thing.colour) for thing in scene.things)
    return scene.background, scene.style, looks


@pytest.mark.parametrize("category", CATEGORIES)
def test_ground_truth_passes(category: str) -> None:
    some = rows(category)
    truth = render([task.target for task in some])
    assert all(score(truth, some))
    assert all(score(from_pixels(to_pixels(truth)), some))


@pytest.mark.parametrize("category", CATEGORIES)
def test_small_pixel_noise_changes_nothing(category: str) -> None:
    some = rows(category)
    noise = 0.1 * torch.randn((ROWS, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    assert all(score(render([task.target for task in some]) + noise, some))


@pytest.mark.parametrize("category", CATEGORIES)
def test_noise_fails(category: str) -> None:
    some, stream = rows(category), torch.Generator().manual_seed(0)
    for noise in (
        torch.randn((ROWS, 3, 16, 16), generator=stream),
        0.3 * torch.randn((ROWS, 3, 16, 16), generator=stream),
        torch.rand((ROWS, 3, 16, 16), generator=stream) * 2 - 1,
        torch.rand((ROWS, 3, 1, 1), generator=stream).expand(-1, -1, 16, 16) * 2 - 1,
    ):
        assert sum(score(noise, some)) <= ROWS / 100


@pytest.mark.parametrize("category", GROUNDS["edit"])
def test_a_copy_of_the_source_fails(category: str) -> None:
    some = rows(category)
    assert not any(score(render(sources(some)), some))


@pytest.mark.parametrize("part", ["background", "objects"])
def test_half_a_style_change_fails(part: str) -> None:
    some = rows("style-change")
    before, after = render(sources(some)), render([task.target for task in some])
    empty = render([replace(task.target, things=()) for task in some])
    is_object = (after != empty).any(1, keepdim=True)
    half = torch.where(is_object == (part == "objects"), after, before)
    assert not any(score(half, some))


def test_images_are_judged_by_the_words_of_every_other_task() -> None:
    """All pairs of a prompt and another row's image: the scorer agrees with a judge that reads the words."""
    some = [task for category in CATEGORIES for task in rows(category, 8)]
    seen = read(render([task.target for task in some]))
    passed = 0
    for task in some:
        for other, scene in zip(some, seen, strict=True):
            wanted = says(task.prompt, task.source, other.target)
            assert fulfils(scene, task) == wanted, (task, other.target)
            passed += wanted
    assert len(some) < passed < 2 * len(some)  # some images fulfil another row's caption too


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_near_misses_are_judged_by_the_words(data: st.DataObject) -> None:
    """Wrong colour, shape, cell, background or style, an object too many or too few."""
    task = data.draw(tasks())
    scene = data.draw(near_misses(task.target))
    assert score(render([scene]), [task]) == [says(task.prompt, task.source, scene)]


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_near_misses_of_edits_fail(data: st.DataObject) -> None:
    """Where words leave nothing open, every near miss is wrong, whatever the second judge thinks."""
    task = data.draw(
        tasks(("subject-replace", "subject-remove", "colour-alter", "background-change", "style-change"))
    )
    assert score(render([data.draw(near_misses(task.target))]), [task]) == [False]


def test_an_added_object_may_stand_in_any_free_cell() -> None:
    checked = 0
    for task in rows("subject-add"):
        assert task.source is not None
        (new,) = set(task.target.things) - set(task.source.things)
        places = [task.source.with_thing(replace(new, cell=cell)) for cell in range(NUM_CELLS)]
        free = [cell in task.source.free_cells for cell in range(NUM_CELLS)]
        assert score(render(places), [task] * NUM_CELLS) == free
        checked += sum(free)
    assert checked > ROWS


def test_a_replacement_may_have_any_place_and_size_in_its_cell() -> None:
    task = rows("subject-replace", 1)[0]
    assert task.source is not None
    (new,) = set(task.target.things) - set(task.source.things)
    for dx, dy, radius in ((-0.5, -0.5, 2.7), (0.5, 0.5, 3.1), (0.5, -0.5, 2.9)):
        moved = task.target.with_thing(replace(new, dx=dx, dy=dy, radius=radius))
        assert score(render([moved]), [task]) == [True]


@pytest.mark.parametrize(
    "change", [{"dx": MAX_MOVE + 0.1}, {"dy": -MAX_MOVE - 0.1}, {"radius": 2.9 + MAX_GROWTH + 0.1}]
)
def test_what_an_edit_keeps_must_stay_in_place(change: dict[str, float]) -> None:
    kept, old = Thing(0, 1, 2), Thing(3, 0, 0)
    source = Scene(0, 0, (kept, old))
    add = Task("subject-add", "add green cross", source.with_thing(Thing(1, 3, 1)), source)
    remove = Task("subject-remove", "remove red circle", source.without(old), source)
    for task in (add, remove):
        assert fulfils(task.target, task)
        assert not fulfils(task.target.with_thing(replace(kept, **change)), task)


@settings(deadline=None, max_examples=150)
@given(scenes())
def test_a_rendered_scene_is_read_back(scene: Scene) -> None:
    (seen,) = read(render([scene]))
    assert seen is not None
    assert by_looks(seen) == by_looks(scene)
    for found, thing in zip(seen.things, scene.things, strict=True):
        assert max(abs(found.dx - thing.dx), abs(found.dy - thing.dy)) <= 0.5
        assert abs(found.radius - thing.radius) <= 0.3


def test_images_that_are_not_finite_are_unread() -> None:
    images = render([Scene(0), Scene(1), Scene(2), Scene(0)])
    images[1, 2, 5, 5] = float("nan")
    images[2, 0, 0, 0] = float("inf")
    images[3, 0, 0, 0] = float("-inf")
    assert [scene is None for scene in read(images)] == [False, True, True, True]


def test_an_image_in_two_styles_is_unread() -> None:
    plain, night = render([Scene(0, 0, (Thing(0, 0, 0),)), Scene(0, 2, (Thing(0, 0, 0),))])
    mixed = plain.clone()
    mixed[:, 1:7, 1:7] = night[:, 1:7, 1:7]
    assert read(mixed[None]) == [None]


@pytest.mark.parametrize("flaw", ["half an object", "no colour of the world", "stripes"])
def test_a_cell_with_something_else_in_it_is_unread(flaw: str) -> None:
    background, image = render([Scene(0), Scene(0, 0, (Thing(0, 1, 2),))])
    cell = (slice(None), slice(1, 7), slice(1, 7))
    if flaw == "half an object":
        image[:, :, :4] = background[:, :, :4]
    elif flaw == "no colour of the world":
        image[cell] = torch.tensor([0.9, -0.2, 0.9])[:, None, None]
    else:
        image[cell][:, ::2] = background[cell][:, ::2]
    assert read(image[None]) == [None]


def test_reading_does_not_depend_on_the_batch() -> None:
    images = render([task.target for category in CATEGORIES for task in rows(category, 7)])
    assert read(images) == [read(image[None])[0] for image in images]


def test_reading_takes_what_a_model_gives() -> None:
    """Half precision, gradients and values outside [-1, 1]."""
    scene = Scene(2, 0, (Thing(1, 2, 3),))
    image = render([scene])
    for other in (image.to(torch.bfloat16), image.clone().requires_grad_(), image * 1.1):
        (seen,) = read(other)
        assert seen is not None
        assert by_looks(seen) == by_looks(scene)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"images has shape \(3, 16, 16\)"):
        read(torch.zeros(3, 16, 16))
    with pytest.raises(ValueError, match="images holds 1 rows for 2 tasks"):
        score(torch.zeros(1, 3, 16, 16), rows("single", 2))
    assert read(torch.zeros(0, 3, 16, 16)) == []
