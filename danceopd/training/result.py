"""How a run ended."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class TrainResult(NamedTuple):
    """How a run ended.

    Attributes:
        step: updates done, over all its resumptions.
        output_dir: the run's folder.
        exported: the student as the family's users load it; None when the run was stopped before its end.
        stopped_by: number of the signal that stopped it, None when it came to its end.
    """

    step: int
    output_dir: Path
    exported: Path | None
    stopped_by: int | None
