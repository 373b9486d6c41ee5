"""How varied a model's images are: a collapsed model can score well, so entropies stand beside the scores."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .render import render
from .scorer import fulfils, read
from .tasks import Task, answers
from .world import RADIUS, Scene

PROPERTIES = ("background", "position", "size", "layout")


@dataclass(frozen=True)
class Diversity:
    """Entropies in bits of what images show, and of ground truth read in the same way.

    Background, position (each object's cell) and size (each object's class of three) are pooled over all
    images. Layout is which object stands in which cell, over those images of ONE prompt from several noises
    that fulfil it, and averaged over prompts: a model that gives one answer per prompt looks varied in the
    pool, and has none here. Prompts with fewer than two right answers say nothing about it; a model that has
    only such has no layout entry.

    Attributes:
        entropy: by property.
        truth: the same of as many valid answers to the same tasks.
        readable: share of the pooled images that show a scene at all.
    """

    entropy: dict[str, float]
    truth: dict[str, float]
    readable: float

    def ratio(self, name: str) -> float:
        """Entropy as a share of the ground truth's; 1 is as varied as the truth, or as settled."""
        return self.entropy[name] / self.truth[name] if self.truth[name] else 1.0

    @property
    def lowest_ratio(self) -> float:
        """The smallest of the properties' ratios."""
        return min(self.ratio(name) for name in self.entropy)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON."""
        return {
            "readable": self.readable,
            **{
                name: {"entropy_bits": bits, "truth_bits": self.truth[name], "ratio": self.ratio(name)}
                for name, bits in self.entropy.items()
            },
        }


def measure_diversity(
    images: Tensor, tasks: Sequence[Task], repeats: Sequence[tuple[Task, Tensor]] = ()
) -> Diversity:
    """Diversity of images.

    Args:
        images: one per task, [B, 3, 16, 16] in [-1, 1].
        tasks: B tasks.
        repeats: tasks, each with images [N, 3, 16, 16] of its prompt from N noises, for the layout; without
            them it is left out.
    """
    scenes = read(images)
    shown = [scene for scene in scenes if scene is not None]
    truth = [scene for scene in read(render([task.target for task in tasks])) if scene is not None]
    entropies, truths = _pooled(shown), _pooled(truth)
    # Against as many true answers as there are right ones: entropy grows with the number of draws.
    given = [(task, len(images), _fulfilled(task, images)) for task, images in repeats]
    told = [(answers(task, asked)[: len(right)], right) for task, asked, right in given if len(right) > 1]
    if told:
        entropies["layout"] = sum(layout_entropy(right) for _, right in told) / len(told)
        truths["layout"] = sum(layout_entropy(truth) for truth, _ in told) / len(told)
    return Diversity(entropies, truths, len(shown) / max(1, len(scenes)))


def layout_entropy(scenes: Iterable[Scene]) -> float:
    """Entropy in bits of which object stands in which cell."""
    return entropy(map(layout, scenes))


def layout(scene: Scene) -> frozenset[tuple[int, int, int]]:
    """(cell, shape, colour) of a scene's objects."""
    return frozenset((thing.cell, thing.shape, thing.colour) for thing in scene.things)


def entropy(values: Iterable[Hashable]) -> float:
    """Shannon entropy in bits of the values' frequencies; 0 for no values."""
    counts = Counter(values)
    total = sum(counts.values())
    return -sum(n / total * math.log2(n / total) for n in counts.values()) + 0.0


def _fulfilled(task: Task, images: Tensor) -> list[Scene]:
    return [scene for scene in read(images) if scene is not None and fulfils(scene, task)]


def _pooled(scenes: Sequence[Scene]) -> dict[str, float]:
    things = [thing for scene in scenes for thing in scene.things]
    third = (RADIUS[1] - RADIUS[0]) / 3
    return {
        "background": entropy(scene.background for scene in scenes),
        "position": entropy(thing.cell for thing in things),
        "size": entropy(min(2, max(0, int((thing.radius - RADIUS[0]) / third))) for thing in things),
    }
