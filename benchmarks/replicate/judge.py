"""Scores of a field: every task's outcome, diversity, and how far the field is from its teachers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from danceopd.flow import VelocityField, draw_noise, rollout
from danceopd.shapesworld import ShapesWorldFamily, TaskSet, as_example, evaluate

GAP_ROWS = 48
"""Held-out rows that the field gap is measured on."""
STEPS = 8
"""Of every rollout that is judged."""
NOISE_SEED = 0
"""Of the noise that tasks are sampled from."""


def fixed() -> dict[str, int]:
    """What scores hang on besides the job that they are of."""
    return {"gap_rows": GAP_ROWS, "steps": STEPS, "noise_seed": NOISE_SEED}


def judge(
    family: ShapesWorldFamily,
    field: VelocityField,
    teachers: Mapping[str, VelocityField],
    *,
    prompts: int,
    split: str,
    guidance_scale: float = 1.0,
) -> dict[str, Any]:
    """What a result says of one field.

    Args:
        family: the world.
        field: to judge.
        teachers: ground -> the teacher of that ground.
        prompts: tasks per category.
        split: of the tasks.
        guidance_scale: in sampling.

    Returns:
        ``tasks``: ground -> category -> "0110...", one digit per task; ``diversity``: ground -> property ->
        numbers; ``gap``: ground -> the states' noise levels and mean squared velocity errors.
    """
    scores = evaluate(
        family,
        field,
        list(teachers),
        prompts=prompts,
        num_steps=STEPS,
        guidance_scale=guidance_scale,
        seed=NOISE_SEED,
        split=split,
    )
    told: dict[str, Any] = scores.to_dict()
    return {
        "tasks": {
            ground: {category: "".join("01"[done] for done in each) for category, each in rows.items()}
            for ground, rows in scores.fulfilled.items()
        },
        "diversity": told["diversity"],
        "gap": {ground: field_gap(family, field, teacher, ground) for ground, teacher in teachers.items()},
    }


@torch.no_grad()
def field_gap(
    family: ShapesWorldFamily, field: VelocityField, teacher: VelocityField, ground: str
) -> dict[str, list[float]]:
    """Mean squared difference from the teacher at each state of the field's own rollouts on held-out rows."""
    tasks = TaskSet(ground, "validation")
    condition = family.encode([as_example(tasks[row]) for row in range(GAP_ROWS)])
    grid = family.grid(STEPS)
    noise = draw_noise(list(range(GAP_ROWS)), family.shape())
    states = torch.arange(STEPS).expand(GAP_ROWS, STEPS)
    path = rollout(field, noise, grid, condition, stop=states)
    errors = []
    for state in range(STEPS):
        sample, sigma = path.sample[:, state], path.sigma[:, state]
        gap = field(sample, sigma, condition) - teacher(sample, sigma, condition)
        errors.append(float(gap.square().mean()))
    return {"sigma": list(grid.values[:-1]), "error": errors}
