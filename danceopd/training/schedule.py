"""The learning rate of an update, as a function of its number alone."""

from __future__ import annotations

import math

from danceopd.training.config import TrainConfig


def learning_rate(step: int, config: TrainConfig) -> float:
    """Learning rate of update ``step``, counted from 0.

    Rises linearly to ``config.learning_rate`` over ``warmup_steps``; then it is held, or falls linearly or
    along half a cosine such that it would be zero at ``max_steps``.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.lr_schedule == "constant":
        return config.learning_rate
    progress = min(1.0, (step - config.warmup_steps) / max(1, config.max_steps - config.warmup_steps))
    if config.lr_schedule == "linear":
        return config.learning_rate * (1.0 - progress)
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))
