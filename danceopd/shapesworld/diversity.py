"""How varied a model's images are: a collapsed model can score well, so entropies stand beside the scores."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from .render import render
from .scorer import read
from .tasks import Task
from .world import RADIUS, Scene

PROPERTIES = ("background", "position", "size")


@dataclass(frozen=True)
class Diversity:
    """Entropies in bits over all images that could be read, and over ground truth read in the same way.

    Attributes:
        entropy: by property: the background, the cell of each object, and the size class of each object.
        truth: the same of valid answers to the same tasks.
        readable: share of images that show a scene at all.
    """

    entropy: dict[str, float]
    truth: dict[str, float]
    readable: float

    def ratio(self, name: str) -> float:
        """Entropy as a share of the ground truth's; 1 is as varied as the truth."""
        return self.entropy[name] / self.truth[name] if self.truth[name] else 1.0

    @property
    def lowest_ratio(self) -> float:
        """The smallest of the properties' ratios."""
        return min(self.ratio(name) for name in PROPERTIES)


def measure_diversity(images: Tensor, tasks: Sequence[Task]) -> Diversity:
    """Diversity of images [B, 3, 16, 16] in [-1, 1] made for some captions."""
    scenes = read(images)
    shown = [scene for scene in scenes if scene is not None]
    truth = [scene for scene in read(render([task.target for task in tasks])) if scene is not None]
    return Diversity(_entropies(shown), _entropies(truth), len(shown) / max(1, len(scenes)))


def entropy(values: Iterable[Hashable]) -> float:
    """Shannon entropy in bits of the values' frequencies; 0 for no values."""
    counts = Counter(values)
    total = sum(counts.values())
    return -sum(n / total * math.log2(n / total) for n in counts.values()) + 0.0


def _entropies(scenes: Sequence[Scene]) -> dict[str, float]:
    things = [thing for scene in scenes for thing in scene.things]
    third = (RADIUS[1] - RADIUS[0]) / 3
    return {
        "background": entropy(scene.background for scene in scenes),
        "position": entropy(thing.cell for thing in things),
        "size": entropy(min(2, max(0, int((thing.radius - RADIUS[0]) / third))) for thing in things),
    }
