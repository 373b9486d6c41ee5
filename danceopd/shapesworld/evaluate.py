"""Scores of a velocity field on the grounds of ShapesWorld."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from danceopd.flow import VelocityField
from danceopd.sampling import sample

from .diversity import PROPERTIES, Diversity, measure_diversity
from .family import ShapesWorldFamily, as_example
from .render import from_pixels
from .scorer import score
from .tasks import GROUNDS, Task, TaskSet


@dataclass(frozen=True)
class Scores:
    """Share of test tasks fulfilled, by category and by ground.

    Attributes:
        categories: ground -> category -> share in [0, 1].
        prompts: tasks per category.
        diversity: of the t2i images; None if t2i was not asked for.
    """

    categories: dict[str, dict[str, float]]
    prompts: int
    diversity: Diversity | None = None

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
        result: dict[str, Any] = {
            "mean": self.mean,
            "grounds": self.grounds,
            "categories": self.categories,
            "prompts_per_category": self.prompts,
        }
        if self.diversity is not None:
            result["diversity"] = {
                "readable": self.diversity.readable,
                **{
                    name: {
                        "entropy_bits": self.diversity.entropy[name],
                        "truth_bits": self.diversity.truth[name],
                        "ratio": self.diversity.ratio(name),
                    }
                    for name in PROPERTIES
                },
            }
        return result


def held_out_tasks(ground: str, prompts: int) -> dict[str, list[Task]]:
    """The first `prompts` test tasks of every category of a ground, by category; no training run draws them.

    Raises:
        ValueError: `ground` is unknown, or `prompts` is below 1.
    """
    if ground not in GROUNDS:
        raise ValueError(f"ground {ground!r} is unknown; choose one of {', '.join(GROUNDS)}.")
    if prompts < 1:
        raise ValueError(
            f"prompts must be at least 1, but got {prompts}; 48 give errors of about 0.03 per ground."
        )
    return {
        category: [TaskSet((category,), "test")[row] for row in range(prompts)]
        for category in GROUNDS[ground]
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

    Raises:
        ValueError: a ground is unknown, none is named, or `prompts` is below 1.
    """
    grounds = (grounds,) if isinstance(grounds, str) else tuple(grounds)
    if not grounds:
        raise ValueError(f"grounds is empty; name one or several of {', '.join(GROUNDS)}.")
    tasks_of = {ground: held_out_tasks(ground, prompts) for ground in grounds}
    categories: dict[str, dict[str, float]] = {}
    diversity = None
    for ground, by_category in tasks_of.items():
        tasks = [task for rows in by_category.values() for task in rows]
        examples = [as_example(task) for task in tasks]
        images = sample(
            family,
            field,
            [example.prompt for example in examples],
            sources=[example.source for example in examples],
            num_steps=num_steps,
            guidance_scale=guidance_scale,
            seed=seed,
            batch_size=96,
        )
        samples = from_pixels(images)
        fulfilled = score(samples, tasks)
        categories[ground] = {
            category: sum(fulfilled[i * prompts : (i + 1) * prompts]) / prompts
            for i, category in enumerate(by_category)
        }
        if ground == "t2i":
            diversity = measure_diversity(samples, tasks)
    return Scores(categories, prompts, diversity)
