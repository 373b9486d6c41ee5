"""Model families: each is the one place that knows its model's conventions."""

from __future__ import annotations

import torch

from danceopd.families.base import EncodedWhenAsked, Example, Examples, Family, Prepared, Student
from danceopd.families.config import StudentConfig, Teacher
from danceopd.families.device import usable_device

__all__ = [
    "EncodedWhenAsked",
    "Example",
    "Examples",
    "Family",
    "Prepared",
    "Student",
    "StudentConfig",
    "Teacher",
    "load_family",
    "usable_device",
]


def load_family(
    path_or_name: str, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Family:
    """The model family behind a name or a path.

    Args:
        path_or_name: ``"shapesworld"``, the miniature world that ships with the package.
        dtype: of the models' weights and activations.
        device: where the models run: cpu, cuda or cuda:N.

    Raises:
        ValueError: if no family is known by that name, or the device is not here.
    """
    device = usable_device(device)
    if path_or_name == "shapesworld":
        # Only the family that is asked for costs its imports.
        from danceopd.shapesworld.family import ShapesWorldFamily

        return ShapesWorldFamily(dtype=dtype, device=device)
    raise ValueError(f"family must be one of: shapesworld; but got {path_or_name!r}, so name one of these.")
