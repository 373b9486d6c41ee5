"""ImgEdit-Bench (arXiv 2505.20275): single-turn edits, its basic suite of nine tasks and the harder UGE."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from danceopd.data import DataError
from danceopd.evaluation.base import Case
from danceopd.evaluation.benchmarks.layout import BenchmarkCopy, Inspection, inside


class _Suite(NamedTuple):
    tasks: str
    folders: Sequence[str]  # of the images, as the archive and its copies have called them
    published: int


_SUITES = {
    "basic": _Suite("basic_edit.json", ("Basic", "singleturn"), 737),
    "uge": _Suite("UGE_edit.json", ("UGE", "hard"), 47),
}


def open_imgedit(folder: Path, *, suite: str = "basic", images: Path | None = None) -> BenchmarkCopy:
    """A suite of ImgEdit-Bench from a folder with its archive of images, unpacked, and its task file.

    A case's key is that of the task file; its category is its ``edit_type``, of UGE "uge"; `about` has ``id``
    and ``edit_type``. Its evaluator reads ``KEY.png``.

    Args:
        folder: the user's copy.
        suite: "basic", or "uge", the difficult ones.
        images: folder of the images that the task file names; found in the copy when not given.

    Raises:
        DataError: the copy is not whole.
        ValueError: the suite is unknown.
    """
    if suite not in _SUITES:
        raise ValueError(f"suite must be 'basic' or 'uge', but got {suite!r}; multi-turn edits are not run.")
    file, folders, published = _SUITES[suite]
    inspection = Inspection("ImgEdit-Bench", folder)
    names = [
        place + file
        for place in ("", f"Benchmark/{folders[0]}/", f"{folders[0]}/", f"Benchmark/{folders[1]}/")
    ]
    path = inspection.find(*names)
    tasks = _read(path)
    for key, task in tasks.items():
        for name in ("id", "prompt", "edit_type")[: 3 if suite == "basic" else 2]:
            if not isinstance(task.get(name), str) or not task[name].strip():
                inspection.fault(f"task '{key}' of '{path.name}' has no {name}")
    inspection.finish()
    root = images or _root(folder, folders, tasks)
    cases = []
    for key, task in tasks.items():
        source = inspection.file(inside(root, task["id"]))
        kind = task["edit_type"] if suite == "basic" else suite
        about = {"id": task["id"], "edit_type": kind}
        cases.append(Case(key, kind, "edit", task["prompt"], (source,), about=about))
    inspection.finish()
    return BenchmarkCopy("imgedit", tuple(cases), _path, published=published)


def _path(case: Case, number: int) -> PurePosixPath:
    return PurePosixPath(f"{case.key}.png")


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        tasks = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"'{path}' is no JSON ({error}): copy it anew.") from None
    if not isinstance(tasks, dict) or not tasks or not all(isinstance(task, dict) for task in tasks.values()):
        raise DataError(f"'{path}' is no JSON object of tasks by their keys: copy it anew.")
    return tasks


def _root(folder: Path, names: Sequence[str], tasks: Mapping[str, Mapping[str, Any]]) -> Path:
    """Where most of the images are; whatever is not is then told."""
    places = [folder / "Benchmark" / name for name in names] + [folder / name for name in names] + [folder]
    found = [sum(inside(place, task["id"]).exists() for task in tasks.values()) for place in places]
    return places[found.index(max(found))]
