"""The cases on which a student lost most, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from danceopd.evaluation.base import Benchmark, Capability, Case, Measured
from danceopd.pictures import read_png, write_table

MOST = 4
"""Cases that are shown for each contender and capability."""

_LARGEST = 256  # pixels of a side


@dataclass(frozen=True)
class Loss:
    """An image that another contender's beats.

    Attributes:
        case: key of the case.
        number: of the image.
        prompt: of the case.
        student: value of the student's image.
        other: value of the other's image from the same noise.
    """

    case: str
    number: int
    prompt: str
    student: float
    other: float


@dataclass(frozen=True)
class Losses:
    """The worst losses against a contender in a capability, the worst first.

    Attributes:
        against: the contender.
        capability: of the cases.
        metric: by which they were found.
        losses: an image per case.
    """

    against: str
    capability: Capability
    metric: str
    losses: tuple[Loss, ...]


def worst_losses(
    student: Iterable[Measured],
    other: Iterable[Measured],
    cases: Mapping[str, Case],
    capability: Capability,
    metric: str,
    higher_is_better: bool,
) -> tuple[Loss, ...]:
    """The images of `MOST` cases, at most, on which the student is furthest behind, one per case.

    Args:
        student: its measurements.
        other: those of whom it is compared with.
        cases: by their keys; others do not count.
        capability: of the cases.
        metric: to go by.
        higher_is_better: of the metric.
    """

    def values(rows: Iterable[Measured]) -> dict[tuple[str, int], float]:
        return {
            (row.case, row.number): row.value
            for row in rows
            if row.metric == metric and row.capability == capability and row.value is not None
        }

    ours, theirs, sign = values(student), values(other), 1 if higher_is_better else -1
    behind = {key: sign * (theirs[key] - ours[key]) for key in ours.keys() & theirs.keys()}
    found: dict[str, Loss] = {}
    for key, number in sorted(behind, key=lambda image: (-behind[image], image)):
        if behind[key, number] <= 0 or len(found) == MOST:
            break
        if key in cases and key not in found:
            found[key] = Loss(key, number, cases[key].prompt, ours[key, number], theirs[key, number])
    return tuple(found.values())


def draw_losses(
    path: Path, losses: Losses, benchmark: Benchmark, student: str, images: Mapping[str, Path]
) -> Path | None:
    """Write the images of losses as a table, source, others and student across.

    Args:
        path: a .png file.
        losses: what to show.
        benchmark: whose images they are.
        student: name of the student.
        images: the folder of images of each contender to show, by name.

    Returns:
        The file; None where no image can be read, and nothing is written.

    Raises:
        OSError: the file cannot be written.
    """
    cases = {case.key: case for case in benchmark.cases()}
    edited = any(cases[loss.case].sources for loss in losses.losses)
    columns = [*(["source"] if edited else []), *(name for name in images if name != student), student]
    rows: list[tuple[str, Sequence[Tensor | None]]] = []
    for place, loss in enumerate(losses.losses, start=1):
        case = cases[loss.case]
        cells = [_read(case.sources[0]) if case.sources else None] if edited else []
        for name in columns[len(cells) :]:
            cells.append(_read(images[name] / benchmark.image_path(case, loss.number)))
        rows.append((f"{place}. {loss.prompt}", cells))
    if not any(cell is not None for _, cells in rows for cell in cells):
        return None
    return write_table(path, columns, rows, largest=_LARGEST)


def _read(path: Path) -> Tensor | None:
    try:
        return read_png(path)
    except (ValueError, OSError, SyntaxError, Image.DecompressionBombError):  # the report counts it elsewhere
        return None
