"""Updates of methods, on fields in a list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from danceopd.flow import SigmaGrid, VelocityField
from danceopd.methods import Batch, DanceOPD, Limits, Method, UpdateResult


def update(
    student: VelocityField,
    fields: Sequence[VelocityField],
    batch: Batch,
    grid: SigmaGrid,
    method: Method | None = None,
    **limits: Any,
) -> UpdateResult:
    """One update, of DanceOPD where nothing is said, with teachers named after their places."""
    teachers = {str(place): field for place, field in enumerate(fields)}
    return (method or DanceOPD()).update(student, teachers, batch, grid, Limits(**limits))
