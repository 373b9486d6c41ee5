"""The shift of noise levels that grows with the number of image tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def dynamic_shift(
    config: Mapping[str, Any], image_tokens: int, defaults: Mapping[str, float] | None = None
) -> dict[str, float]:
    """``mu`` for a scheduler whose config has ``use_dynamic_shifting``, nothing for others.

    mu is the straight line through (base_image_seq_len, base_shift) and (max_image_seq_len, max_shift).

    Args:
        config: the scheduler's config.
        image_tokens: of the image that is made; sources do not count.
        defaults: where the config is silent; diffusers' pipelines differ in the last of them.
    """
    if not config.get("use_dynamic_shifting"):
        return {}
    usual = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15}
    settings = {**usual, **(defaults or {}), **{key: config[key] for key in usual if key in config}}
    tokens = settings["max_image_seq_len"] - settings["base_image_seq_len"]
    slope = (settings["max_shift"] - settings["base_shift"]) / tokens
    return {"mu": image_tokens * slope + (settings["base_shift"] - slope * settings["base_image_seq_len"])}


def even_sigmas(num_steps: int) -> np.ndarray[Any, Any]:
    """The unshifted levels that most pipelines hand to their scheduler: from 1 down to 1 / num_steps."""
    return np.linspace(1.0, 1.0 / num_steps, num_steps)
