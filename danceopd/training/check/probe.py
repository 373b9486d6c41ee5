"""A few rows of every route, encoded as training encodes them, on which fields are tried."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from danceopd.data import RowContent, row_content
from danceopd.families import Example, Examples, Family, Prepared, RowsOfShape
from danceopd.training.batch import PlannedBatch, build_batches
from danceopd.training.config import TrainConfig
from danceopd.training.plan import SlotPlan
from danceopd.training.run_folder import CACHE


@dataclass(frozen=True)
class ProbeRows:
    """Some rows of a route. See `danceopd.families.Examples`."""

    examples: Examples
    positions: Sequence[int]

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, row: int, /) -> Example:
        return self.examples[self.positions[row]]

    def content(self, row: int, /) -> RowContent:
        """As of all rows, so that both find the same entries of a cache."""
        return row_content(self.examples, self.positions[row])


@dataclass(frozen=True)
class Probe:
    """Rows to try fields on.

    Attributes:
        family: what encoded them.
        rows: of each route, of its commonest shape.
        prepared: the same, encoded.
        seed: of the run; its noise is drawn from it.
        num_steps: N of the rollout.
        bytes_per_row: what an encoded row takes on disk; None where the run's cache is there already.
    """

    family: Family
    rows: Sequence[ProbeRows]
    prepared: Sequence[Prepared]
    seed: int
    num_steps: int
    bytes_per_row: float | None

    def slots(self, route: int) -> list[SlotPlan]:
        """A sample of each row of a route, queried at the first states of a rollout."""
        last = self.num_steps - 1
        return [
            SlotPlan(route, row, (self.seed + row) % 2**63, states=(min(row, last),), drop=False)
            for row in range(len(self.rows[route]))
        ]

    def batches(self, slots: Sequence[SlotPlan], teacher_of_route: Sequence[int]) -> Iterator[PlannedBatch]:
        """The slots as the trainer would see them."""
        return build_batches(slots, self.family, self.prepared, teacher_of_route, self.num_steps)


@contextmanager
def open_probe(
    family: Family, config: TrainConfig, data: Sequence[Examples], shapes: Sequence[RowsOfShape]
) -> Iterator[Probe]:
    """Encode the probe, in the run's own cache where there is one, else in a folder that goes away again."""
    rows = [ProbeRows(examples, _choose(of)) for examples, of in zip(data, shapes, strict=True)]
    folder = cache_folder(config)
    with TemporaryDirectory(prefix="danceopd-check-") as temporary:
        place = folder if folder.is_dir() else Path(temporary)
        prepared = family.prepare(rows, place)
        count = sum(map(len, rows))
        written = None if place == folder else folder_bytes(place) / count
        yield Probe(family, rows, prepared, config.seed, config.num_rollout_steps, written)


def cache_folder(config: TrainConfig) -> Path:
    """Where the run keeps encoded rows."""
    return Path(config.cache_dir or Path(config.output_dir) / CACHE)


def folder_bytes(folder: Path) -> int:
    """Of all files below a folder, 0 where it is not there."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _choose(shapes: RowsOfShape) -> list[int]:
    """The first row of the commonest shape, and one from the middle of the others that have it."""
    alike = max(shapes.values(), key=len)
    return sorted({alike[0], alike[len(alike) // 2]})
