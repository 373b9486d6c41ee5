"""Scores of a velocity field on the grounds of ShapesWorld."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from danceopd.flow import VelocityField
from danceopd.sampling import sample

from .diversity import Diversity, layout, measure_diversity
from .family import ShapesWorldFamily, as_example
from .render import from_pixels
from .scorer import score
from .tasks import GROUNDS, Task, TaskSet, answers


@dataclass(frozen=True)
class Scores:
    """Share of test tasks fulfilled, by category and by ground.

    Attributes:
        categories: ground -> category -> share in [0, 1].
        prompts: tasks per category.
        diversity: by ground.
        fulfilled: ground -> category -> whether each task was, in the tasks' order, for paired comparisons.
    """

    categories: dict[str, dict[str, float]]
    prompts: int
    diversity: dict[str, Diversity]
    fulfilled: dict[str, dict[str, list[bool]]]

    def ground(self, name: str) -> float:
        """Mean over the ground's categories, as GenEval's overall score is a mean over its six."""
        shares = self.categories[name]
        return sum(shares.values()) / len(shares)

    @property
    def grounds(self) -> dict[str, float]:
        """Ground -> its mean share."""
        return {name: self.ground(name) for name in self.categories}

    @property
    def mean(self) -> float:
        """Mean over the grounds."""
        return sum(self.grounds.values()) / len(self.categories)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON."""
        return {
            "mean": self.mean,
            "grounds": self.grounds,
            "categories": self.categories,
            "prompts_per_category": self.prompts,
            "diversity": {ground: diversity.to_dict() for ground, diversity in self.diversity.items()},
        }


def held_out_tasks(ground: str, prompts: int, split: str = "test") -> dict[str, list[Task]]:
    """The first `prompts` tasks of every category of a ground, by category; no training run draws them.

    Raises:
        ValueError: `ground` is unknown, `split` is not "test" or "validation", or `prompts` is below 1.
    """
    if split not in ("test", "validation"):
        raise ValueError(f"split must be 'test' or 'validation', but got {split!r}.")
    if ground not in GROUNDS:
        raise ValueError(f"ground {ground!r} is unknown; choose one of {', '.join(GROUNDS)}.")
    if prompts < 1:
        raise ValueError(
            f"prompts must be at least 1, but got {prompts}; 48 give errors of about 0.03 per ground."
        )
    return {
        category: [TaskSet((category,), split)[row] for row in range(prompts)] for category in GROUNDS[ground]
    }


def evaluate(
    family: ShapesWorldFamily,
    field: VelocityField,
    grounds: str | Sequence[str] = ("t2i", "local", "global"),
    *,
    prompts: int = 48,
    num_steps: int = 8,
    guidance_scale: float = 1.0,
    seed: int = 0,
    split: str = "test",
) -> Scores:
    """Sample the field on held-out tasks and score every image exactly.

    Args:
        family: the world.
        field: what to judge.
        grounds: one or several of "t2i", "local", "global" and "edit"; each is scored on its own categories.
        prompts: tasks per category.
        num_steps: Euler steps; 8 is enough for this world.
        guidance_scale: classifier-free guidance on top of `field`.
        seed: of the noise; the tasks are always the same.
        split: "test", or "validation" to choose settings on.

    Raises:
        ValueError: a ground or the split is unknown, no ground is named, or `prompts` is below 1.
    """
    grounds = (grounds,) if isinstance(grounds, str) else tuple(grounds)
    if not grounds:
        raise ValueError(f"grounds is empty; name one or several of {', '.join(GROUNDS)}.")
    tasks_of = {ground: held_out_tasks(ground, prompts, split) for ground in grounds}

    def draw(tasks: Sequence[Task]) -> Tensor:
        examples = [as_example(task) for task in tasks]
        images = sample(
            family,
            field,
            [example.prompt for example in examples],
            sources=[example.sources for example in examples],
            num_steps=num_steps,
            guidance_scale=guidance_scale,
            seed=seed,
            batch_size=96,
        )
        return from_pixels(images)

    outcomes: dict[str, dict[str, list[bool]]] = {}
    diversity: dict[str, Diversity] = {}
    for ground, by_category in tasks_of.items():
        tasks = [task for rows in by_category.values() for task in rows]
        images = draw(tasks)
        fulfilled = score(images, tasks)
        outcomes[ground] = {
            category: fulfilled[i * prompts : (i + 1) * prompts] for i, category in enumerate(by_category)
        }
        repeated = _repeated(by_category)
        repeats = draw([task for task in repeated for _ in range(_NOISES)]).split(_NOISES) if repeated else ()
        diversity[ground] = measure_diversity(images, tasks, list(zip(repeated, repeats, strict=True)))
    shares = {
        ground: {category: sum(each) / prompts for category, each in rows.items()}
        for ground, rows in outcomes.items()
    }
    return Scores(shares, prompts, diversity, outcomes)


# Eight noises tell one answer from several: the entropy of four equal choices is then 1.7 bits of 2.
_NOISES = 8


def _repeated(by_category: Mapping[str, Sequence[Task]]) -> list[Task]:
    """Tasks whose layout is open, a few of each such category, to be asked again from other noises."""
    open_tasks = [task for rows in by_category.values() for task in rows[: max(1, len(rows) // 8)]]
    return [task for task in open_tasks if len(set(map(layout, answers(task, _NOISES)))) > 1]
