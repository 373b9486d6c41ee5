"""Model families: each is the one place that knows its model's conventions."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from danceopd.families.base import (
    EncodedWhenAsked,
    Example,
    Examples,
    Family,
    Footprint,
    Place,
    Prepared,
    RowsOfShape,
    Shardable,
    Student,
)
from danceopd.families.config import StudentConfig, Teacher
from danceopd.families.device import usable_device, usable_dtype

__all__ = [
    "EncodedWhenAsked",
    "Example",
    "Examples",
    "Family",
    "Footprint",
    "Place",
    "Prepared",
    "RowsOfShape",
    "Shardable",
    "Student",
    "StudentConfig",
    "Teacher",
    "load_family",
    "usable_device",
    "usable_dtype",
]


def load_family(
    path_or_name: str | Path,
    *,
    dtype: torch.dtype | Literal["float32", "bfloat16"] = torch.float32,
    device: torch.device | str = "cpu",
    resolution: int | None = None,
) -> Family:
    """The model family behind a checkpoint, or ``"shapesworld"``, the miniature world that ships with the
    package.

    The index of the checkpoint says which family it is; its weights are read when they are needed. The keys
    of a config that say how its family is loaded go here; a trainer takes the family as it is.

    Args:
        path_or_name: a folder in diffusers' layout, a repository of the Hugging Face Hub, or
            ``"shapesworld"``.
        dtype: of the models' weights and activations: float32 or bfloat16, as a text or as torch's.
        device: where the models run: cpu, cuda or cuda:N.
        resolution: side of a square image in pixels, whose area other aspect ratios keep; 1024 when None.

    Raises:
        ValueError: no checkpoint is there, its family is not known, the dtype is another, or the device is
            not here.
    """
    dtype, device = usable_dtype(dtype), usable_device(device)
    if path_or_name == "shapesworld":
        # Only the family that is asked for costs its imports.
        from danceopd.shapesworld.family import ShapesWorldFamily

        if resolution is not None:
            raise ValueError(
                f"resolution={resolution} cannot be set for ShapesWorld, which has one size: drop it."
            )
        return ShapesWorldFamily(dtype=dtype, device=device)
    from danceopd.families.checkpoint import ModelCheckpoint
    from danceopd.families.pretrained import PretrainedFamily
    from danceopd.families.registry import conventions_of

    checkpoint = ModelCheckpoint(path_or_name)
    return PretrainedFamily(
        checkpoint, conventions_of(checkpoint), dtype=dtype, device=device, resolution=resolution or 1024
    )
