"""GenEval's checks over objects that a stub finds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from danceopd.evaluation.metrics import COLOURS, ClipColours, ClipFeatures, Found, GenEvalChecks
from danceopd.evaluation.metrics.geneval import relations
from tests.evaluation.examples import BLUE, RED, caption, noise, save
from tests.evaluation.models import clip_folder


@pytest.fixture(scope="module")
def clip() -> ClipFeatures:
    return ClipFeatures(clip_folder())


def found(label: str, left: float, top: float, score: float = 0.95, side: float = 10) -> Found:
    return Found(label, (left, top, left + side, top + side), score)


class Stub:
    """Finds what it was told, and names the colour that it was told."""

    def __init__(self, *objects: Found, colours: Sequence[str] = ()) -> None:
        self._objects = objects
        self._colours = dict(zip((one.box for one in objects), colours, strict=False))

    def detect(self, image: Path) -> Sequence[Found]:
        return self._objects

    def name(self, image: Path, found: Found) -> str:
        return self._colours[found.box]


def passes(tmp_path: Path, stub: Stub, tag: str, include: list[object], **about: object) -> bool:
    image = save(tmp_path / "e.png", noise(0))
    case = caption("0", about={"tag": tag, "include": include, **about})
    checks = GenEvalChecks(stub, stub)
    assert checks.applies(case)
    value = checks.measure(case, image)["geneval_correct"]
    assert value == float(not checks.faults(case, image))
    return value == 1.0


def test_objects_are_there_or_not(tmp_path: Path) -> None:
    asked = [{"class": "bench", "count": 1}, {"class": "cow", "count": 1}]
    assert passes(tmp_path, Stub(found("cow", 0, 0, 0.31), found("bench", 20, 0)), "two_object", asked)
    assert not passes(tmp_path, Stub(found("cow", 0, 0, 0.3), found("bench", 20, 0)), "two_object", asked)


def test_a_count_is_met_exactly_and_by_sure_objects_alone(tmp_path: Path) -> None:
    asked: list[object] = [{"class": "cow", "count": 2}]
    excluded = [{"class": "cow", "count": 3}]
    for number, right in ((1, False), (2, True), (3, False)):
        cows = [found("cow", 20 * index, 0) for index in range(number)]
        doubtful = found("cow", 90, 0, 0.9)
        assert passes(tmp_path, Stub(*cows, doubtful), "counting", asked, exclude=excluded) is right


def test_colours_are_those_of_the_surest_objects(tmp_path: Path) -> None:
    asked = [
        {"class": "cow", "count": 1, "color": "red"},
        {"class": "bench", "count": 1, "color": "blue"},
    ]
    objects = (found("cow", 0, 0), found("cow", 20, 0, 0.5), found("bench", 40, 0))
    assert passes(tmp_path, Stub(*objects, colours=("red", "white", "blue")), "color_attr", asked)
    assert not passes(tmp_path, Stub(*objects, colours=("white", "red", "blue")), "color_attr", asked)
    assert not passes(tmp_path, Stub(*objects, colours=("blue", "red", "red")), "color_attr", asked)
    with pytest.raises(ValueError, match="GenEval knows no colour 'mauve'"):
        passes(tmp_path, Stub(found("cow", 0, 0)), "colors", [{"class": "cow", "count": 1, "color": "mauve"}])


def test_positions_are_relative_to_another_clause(tmp_path: Path) -> None:
    asked = [
        {"class": "cow", "count": 1},
        {"class": "bench", "count": 1, "position": ["left of", 0]},
    ]
    cow = found("cow", 50, 0)
    assert passes(tmp_path, Stub(cow, found("bench", 0, 0)), "position", asked)
    assert not passes(tmp_path, Stub(cow, found("bench", 90, 0)), "position", asked)
    assert not passes(tmp_path, Stub(found("bench", 0, 0)), "position", asked), "nothing to be left of"


@pytest.mark.parametrize(
    ("left", "top", "held"),
    [
        (-30, 0, {"left of"}),
        (30, 0, {"right of"}),
        (0, -30, {"above"}),
        (0, 30, {"below"}),
        (30, 30, {"right of", "below"}),
        (2, 0, set()),  # a tenth of both extents: as good as in the middle
        (3, 0, set()),  # what is left over is less than half of the distance
        (5, 0, {"right of"}),
        (0, 0, set()),
        (100, 40, {"right of"}),
    ],
)
def test_relations_leave_a_margin(left: float, top: float, held: set[str]) -> None:
    assert relations(found("cow", 50 + left, 50 + top), found("bench", 50, 50)) == held


def test_clip_names_the_colour_of_the_object_alone(tmp_path: Path, clip: ClipFeatures) -> None:
    pixels = np.full((40, 60, 3), BLUE)
    pixels[:, :30] = RED
    image = save(tmp_path / "e.png", pixels)
    colours = ClipColours(clip)
    whole = np.zeros((40, 60), bool)
    whole[:, :30] = True
    beside = np.full((40, 30, 3), RED)
    alone = save(tmp_path / "alone.png", beside)
    box = (0.0, 0.0, 30.0, 40.0)
    named = colours.name(image, Found("circle", box, 0.9, whole))
    assert named in COLOURS
    assert named == colours.name(alone, Found("circle", box, 0.9)), "only the crop is seen"
    with pytest.raises(ValueError, match="a mask covers the whole image"):
        colours.name(image, Found("circle", box, 0.9, whole[:, :30]))
