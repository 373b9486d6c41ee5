"""What an evaluation's folder says of itself, so that it can be read back and compared with another."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from danceopd.evaluation.base import Measured, MetricInfo
from danceopd.evaluation.store import MEASURED, read_measured
from danceopd.files import write_whole

RECORD: Final = "evaluation.json"


@dataclass(frozen=True)
class Record:
    """What was measured in a folder, and how.

    Attributes:
        benchmark: its name.
        fingerprint: of the user's copy.
        student: folder of the contender that the others are compared with.
        settings: seed, num_steps and guidance_scale of all images.
        measures: all metrics that were ever measured in the folder, in the order of the report.
        by: what measured a metric, by its name; see `danceopd.evaluation.store.open_store`.
    """

    benchmark: str
    fingerprint: str
    student: str
    settings: Mapping[str, Any]
    measures: tuple[MetricInfo, ...]
    by: Mapping[str, str]

    def after(self, measures: Iterable[MetricInfo], by: Mapping[str, str]) -> Record:
        """With further metrics; those that are known already stay where they stand."""
        known = {info.name: info for info in self.measures}
        new = {info.name: info for info in measures}
        kept = {name: what for name, what in self.by.items() if name not in new}
        given = {name: what for name, what in by.items() if name in new}
        return replace(self, measures=tuple((known | new).values()), by=kept | given)


def write_record(folder: Path, record: Record) -> None:
    """Write `RECORD` into an evaluation's folder.

    Raises:
        OSError: it cannot be written.
    """
    content = {
        "benchmark": record.benchmark,
        "fingerprint": record.fingerprint,
        "student": record.student,
        "settings": dict(record.settings),
        "measures": [
            {
                "name": info.name,
                "higher_is_better": info.higher_is_better,
                "title": info.title,
                "independent": info.independent,
                "by": record.by.get(info.name, ""),
            }
            for info in record.measures
        ],
    }
    write_whole(folder / RECORD, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def read_record(folder: Path) -> Record:
    """What an evaluation's folder says of itself.

    Raises:
        ValueError: it is not the folder of an evaluation.
        OSError: the file cannot be read.
    """
    path = folder / RECORD
    if not path.is_file():
        raise ValueError(
            f"'{folder}' is not the folder of an evaluation: it has no {RECORD}; name what `out` was then."
        )
    try:
        given = json.loads(path.read_bytes())
        measures = tuple(
            MetricInfo(
                str(of["name"]), of["higher_is_better"], str(of["title"]), bool(of.get("independent", True))
            )
            for of in given["measures"]
        )
        by = {str(of["name"]): str(of["by"]) for of in given["measures"] if of["by"]}
        benchmark, fingerprint, student = (
            str(given[name]) for name in ("benchmark", "fingerprint", "student")
        )
        return Record(benchmark, fingerprint, student, dict(given["settings"]), measures, by)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"'{path}' is no note of an evaluation: evaluate into another folder.") from None


def read_evaluation(folder: Path) -> tuple[Record, list[Measured]]:
    """What was measured of the student in a former evaluation's folder.

    Raises:
        ValueError: it is not one, or its measurements are damaged.
        OSError: a file cannot be read.
    """
    record = read_record(folder)
    path = folder / record.student / MEASURED
    if not path.is_file():
        raise ValueError(f"'{path}' is missing: copy the evaluation's whole folder anew, or evaluate again.")
    return record, read_measured(path, record.by)
