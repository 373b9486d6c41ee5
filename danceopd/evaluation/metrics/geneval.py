"""GenEval's checks (arXiv 2310.11513) over objects that a detector of the user finds.

The criteria and thresholds are the published ones; the numbers compare with published ones only where the
detector and the CLIP model are those of the paper (Mask2Former with Swin-S on COCO, and CLIP ViT-L/14).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from typing_extensions import override

from danceopd.evaluation.base import Case, Metric, MetricInfo
from danceopd.evaluation.metrics.clip import ClipFeatures
from danceopd.evaluation.metrics.features import open_picture, unit

COLOURS: Final = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
RELATIONS: Final = ("left of", "right of", "above", "below")

_CONFIDENT: Final = 0.3
_CONFIDENT_TO_COUNT: Final = 0.9
_MOST: Final = 16  # objects of a kind
_ASIDE: Final = 0.1  # of both objects' extents: how far their centres must be apart to count
_DIRECTION: Final = 0.5  # of the whole offset, left over along one axis
_GREY: Final = (0x99, 0x99, 0x99)
_TEMPLATES: Final = ("a photo of a {colour} {label}", "a photo of a {colour}-colored {label}")
_ANY_OBJECT: Final = "a photo of a {colour} object"


@dataclass(frozen=True)
class Found:
    """An object that a detector sees.

    Attributes:
        label: its kind, as GenEval names it (those of COCO, such as `traffic light`).
        box: left, top, right and bottom in pixels.
        score: confidence, 0 to 1.
        mask: bool [H, W] of the whole image; None from a detector without masks.
    """

    label: str
    box: tuple[float, float, float, float]
    score: float
    mask: NDArray[np.bool_] | None = None


class Detector(Protocol):
    """Finds objects; what a user wraps around a detector of choice."""

    def detect(self, image: Path) -> Sequence[Found]:
        """All objects, also doubtful ones, in any order."""
        ...


class ColourNamer(Protocol):
    """Says which of `COLOURS` an object has."""

    def name(self, image: Path, found: Found) -> str:
        """One of `COLOURS`."""
        ...


class ClipColours(ColourNamer):
    """The colour whose descriptions CLIP finds nearest to the object alone, on grey, as GenEval does it."""

    def __init__(self, clip: ClipFeatures) -> None:
        self._clip = clip

    @override
    def name(self, image: Path, found: Found) -> str:
        picture = open_picture(image)
        if found.mask is not None:
            if found.mask.shape != picture.size[::-1]:
                raise ValueError(
                    f"the detector's mask has shape {found.mask.shape} but '{image}' is "
                    f"{picture.width}x{picture.height}: a mask covers the whole image."
                )
            grey = Image.new("RGB", picture.size, _GREY)
            picture = Image.composite(picture, grey, Image.fromarray(found.mask.astype(np.uint8) * 255))
        left, top, right, bottom = (round(side) for side in found.box)
        picture = picture.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
        likeness = self._named(found.label) @ self._clip.embed_picture(picture)
        return COLOURS[int(likeness.argmax())]

    def _named(self, label: str) -> torch.Tensor:
        """float32 [colours, D]: the mean over the templates."""
        names = []
        for colour in COLOURS:
            texts = [text.format(colour=colour, label=label) for text in (*_TEMPLATES, _ANY_OBJECT)]
            names.append(torch.stack([self._clip.embed_text(text) for text in texts]).mean(dim=0))
        return unit(torch.stack(names))


class GenEvalChecks(Metric):
    """1 where an image shows what a prompt of GenEval asks for and nothing that it excludes, else 0.

    Reads `tag`, `include` and `exclude` of `Case.about`, which are those of GenEval's metadata.

    Args:
        detector: finds the objects.
        colours: names their colours.
    """

    measures: Sequence[MetricInfo] = (MetricInfo("geneval_correct", True, "GenEval checks passed"),)

    def __init__(self, detector: Detector, colours: ColourNamer) -> None:
        self._detector = detector
        self._colours = colours

    @override
    def applies(self, case: Case) -> bool:
        return "tag" in case.about and "include" in case.about

    @override
    def measure(self, case: Case, image: Path) -> Mapping[str, float]:
        return {"geneval_correct": float(not self.faults(case, image))}

    def faults(self, case: Case, image: Path) -> list[str]:
        """What is wrong with an image, a phrase each; empty where it is right.

        Raises:
            ValueError: the image cannot be read, or the benchmark asks for what GenEval does not know.
        """
        open_picture(image)  # an unreadable image is told of alike, whatever the detector makes of it
        objects = self._confident(self._detector.detect(image), case.about["tag"] == "counting")
        faults: list[str] = []
        groups: list[Sequence[Found] | None] = []  # by clause; None where it is not met
        for clause in case.about["include"]:
            found = objects.get(clause["class"], [])[: clause["count"]]
            wrong = self._wrong(clause, found, groups, image)
            groups.append(None if wrong else found)
            faults += wrong
        for clause in case.about.get("exclude") or ():
            number = len(objects.get(clause["class"], []))
            if number >= clause["count"]:
                faults.append(f"{number} {clause['class']} where fewer than {clause['count']} belong")
        return faults

    def _wrong(
        self,
        clause: Mapping[str, Any],
        found: Sequence[Found],
        groups: Sequence[Sequence[Found] | None],
        image: Path,
    ) -> list[str]:
        label, count = clause["class"], clause["count"]
        if len(found) < count:
            return [f"{len(found)} {label} where {count} belong"]
        if "color" in clause:
            if clause["color"] not in COLOURS:
                raise ValueError(
                    f"GenEval knows no colour '{clause['color']}': known are {', '.join(COLOURS)}."
                )
            named = [self._colours.name(image, one) for one in found]
            if named.count(clause["color"]) < count:
                return [f"{label} in {', '.join(named)} where {clause['color']} belongs"]
        if "position" in clause:
            relation, target = clause["position"]
            others = groups[target]
            if others is None:
                return [f"nothing that {label} could be {relation}"]
            if any(relation not in relations(one, other) for one in found for other in others):
                return [f"{label} is not {relation} {others[0].label}"]
        return []

    @staticmethod
    def _confident(found: Sequence[Found], counting: bool) -> dict[str, list[Found]]:
        least = _CONFIDENT_TO_COUNT if counting else _CONFIDENT
        objects: dict[str, list[Found]] = {}
        for one in sorted(found, key=lambda one: -one.score):
            kind = objects.setdefault(one.label, [])
            if one.score > least and len(kind) < _MOST:
                kind.append(one)
        return objects


def relations(one: Found, other: Found) -> set[str]:
    """Where ``one`` lies as seen from ``other``: `left of`, `right of`, `above` or `below`, or two of them.

    Along each axis, a tenth of both extents is taken off the distance of the centres; what is left has to be
    more than half of the whole distance.
    """
    offsets, left_over = [], []
    for low, high in ((0, 2), (1, 3)):
        offset = (one.box[low] + one.box[high] - other.box[low] - other.box[high]) / 2
        extents = abs(one.box[high] - one.box[low]) + abs(other.box[high] - other.box[low])
        offsets.append(offset)
        left_over.append(math.copysign(max(abs(offset) - _ASIDE * extents, 0.0), offset))
    distance = math.hypot(*offsets)
    if max(map(abs, left_over)) < 1e-3:
        return set()
    across, down = (side / distance for side in left_over)
    held = (across < -_DIRECTION, across > _DIRECTION, down < -_DIRECTION, down > _DIRECTION)
    return {name for name, holds in zip(RELATIONS, held, strict=True) if holds}
