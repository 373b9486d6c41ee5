"""GEdit-Bench (arXiv 2504.17761): instructions of real users in eleven tasks, English and Chinese."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from danceopd.evaluation.base import Case
from danceopd.evaluation.benchmarks.layout import UNPACKED, BenchmarkCopy, Inspection, PngFiles, Unpacked
from danceopd.evaluation.benchmarks.rows import read_rows

_TEXTS = ("task_type", "key", "instruction_language")
_LANGUAGES = {"en": ("en",), "cn": ("cn",), "all": ("en", "cn")}


def open_gedit(
    folder: Path, *, language: str = "en", raw_sources: bool = False, unpack_to: Path | None = None
) -> BenchmarkCopy:
    """GEdit-Bench from the folder that its dataset was downloaded to.

    A case's category is its task, with the language where both are asked for; `about` has ``key``,
    ``task_type``, ``language`` and ``intersection_exist``. Its evaluator reads
    ``fullset/TASK/LANGUAGE/KEY.png``, and beside it the source as ``KEY_SRCIMG.png``.

    Args:
        folder: the user's copy.
        language: of the instructions, "en", "cn" or "all"; the results of both are published apart.
        raw_sources: edit the images as they were sent in and not those that the judge is shown, which are
            scaled to about 512 x 512 pixels.
        unpack_to: folder for the source images; one in the copy when not given.

    Raises:
        DataError: the copy is not whole.
        ValueError: the language is unknown.
        ImportError: pyarrow or datasets is not installed.
    """
    if language not in _LANGUAGES:
        raise ValueError(f"language must be one of {', '.join(_LANGUAGES)}, but got {language!r}.")
    inspection = Inspection("GEdit-Bench", folder)
    unpacked = Unpacked(unpack_to or folder / UNPACKED)
    cases = []
    rows = read_rows(
        inspection,
        "train",
        prompt="instruction",
        texts=_TEXTS,
        image="input_image_raw" if raw_sources else "input_image",
        optional=("Intersection_exist",),
        only={"instruction_language": _LANGUAGES[language]},
        unpacked=unpacked,
    )
    for cells, source, _ in rows:
        task, key, spoken = cells["task_type"], cells["key"], cells["instruction_language"]
        about = {
            "key": key,
            "task_type": task,
            "language": spoken,
            "intersection_exist": cells["Intersection_exist"],
        }
        category = f"{task} ({spoken})" if language == "all" else task
        cases.append(
            Case(f"{task}.{spoken}.{key}", category, "edit", cells["instruction"], (source,), about=about)
        )
    if not cases:
        inspection.fault(f"it has no instruction in the language '{language}'")
    inspection.finish()
    shown = PngFiles(
        {_path(case).with_name(f"{case.about['key']}_SRCIMG.png"): case.sources[0] for case in cases}
    )
    published = 606 * len(_LANGUAGES[language])
    return BenchmarkCopy("gedit", tuple(cases), _path, shown, published=published, digests=unpacked.digests)


def _path(case: Case, number: int = 0) -> PurePosixPath:
    about = case.about
    return PurePosixPath("fullset", about["task_type"], about["language"], f"{about['key']}.png")
