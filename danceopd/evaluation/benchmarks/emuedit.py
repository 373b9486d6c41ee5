"""The Emu Edit test set (arXiv 2311.10089): seven tasks, with captions before and after each edit."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from danceopd.evaluation.base import Case
from danceopd.evaluation.benchmarks.layout import UNPACKED, BenchmarkCopy, Inspection, Unpacked
from danceopd.evaluation.benchmarks.rows import read_rows

_TEXTS = ("task", "hash")
_CAPTIONS = ("input_caption", "output_caption")
_PUBLISHED = {"test": 3589, "validation": 2022}


def open_emuedit(folder: Path, *, split: str = "test", unpack_to: Path | None = None) -> BenchmarkCopy:
    """The Emu Edit test set from the folder that its dataset was downloaded to.

    A case's category is its task; `about` has ``input_caption``, ``output_caption``, ``idx`` and ``hash``.
    There is no evaluator of its authors'; images are called ``IDX.png`` as those that score it elsewhere
    have it.

    Args:
        folder: the user's copy.
        split: "test" or "validation".
        unpack_to: folder for the source images; one in the copy when not given.

    Raises:
        DataError: the copy is not whole.
        ValueError: the split is unknown.
        ImportError: pyarrow or datasets is not installed.
    """
    if split not in _PUBLISHED:
        raise ValueError(f"split must be 'test' or 'validation', but got {split!r}.")
    inspection = Inspection("the Emu Edit test set", folder)
    unpacked = Unpacked(unpack_to or folder / UNPACKED)
    cases: dict[str, Case] = {}
    rows = read_rows(
        inspection,
        split,
        prompt="instruction",
        texts=_TEXTS,
        image="image",
        optional=("idx", *_CAPTIONS),
        unpacked=unpacked,
    )
    for cells, source, where in rows:
        if not isinstance(cells["idx"], int):
            inspection.fault(f"{where} has no idx")
            continue
        # Nothing says that idx names one task alone.
        key = str(cells["idx"]) if str(cells["idx"]) not in cases else f"{cells['idx']}-{cells['hash']}"
        about = {"idx": cells["idx"], "hash": cells["hash"]}
        about |= {name: cells[name] for name in _CAPTIONS if cells[name]}
        cases[key] = Case(key, cells["task"], "edit", cells["instruction"], (source,), about=about)
    inspection.finish()
    return BenchmarkCopy(
        "emuedit", tuple(cases.values()), _path, published=_PUBLISHED[split], digests=unpacked.digests
    )


def _path(case: Case, number: int) -> PurePosixPath:
    return PurePosixPath(f"{case.key}.png")
