"""EditEval v1 (arXiv 2402.17525) or EvalEdit: fifty photographs, seven tasks, three texts each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from danceopd.data import read_sheet
from danceopd.evaluation.base import Case
from danceopd.evaluation.benchmarks.layout import BenchmarkCopy, Inspection

_TEXTS = "editing_prompts_collection.xlsx"
_FOLDERS = (
    "object_addition",
    "object_replacement",
    "object_removel",  # as the copy spells it
    "background_change",
    "style_change",
    "texture_change",
    "action_change",
)
_SPELT = {"object_removal": "object_removel", "overall_style_change": "style_change"}
_SUFFIXES = (".jpg", ".jpeg", ".png")


class _Texts(NamedTuple):
    task: str
    number: int
    source: str
    target: str
    instruction: str
    where: str


def open_editeval(folder: Path) -> BenchmarkCopy:
    """EditEval v1 from the folder ``EditEval_v1/Dataset``, or one above it.

    A case's category is its task, its key task and number; `about` has ``input_caption`` and
    ``output_caption``. It is judged in a conversation, so no evaluator reads files: images are called as the
    sources are, ``TASK/NUMBER.png``.

    Raises:
        DataError: the copy is not whole.
    """
    inspection = Inspection("EditEval v1", folder)
    path = inspection.find(_TEXTS, f"Dataset/{_TEXTS}", f"EditEval_v1/Dataset/{_TEXTS}")
    cases = []
    for texts in _read(inspection, path):
        stem = path.parent / texts.task / str(texts.number)
        files = [stem.with_suffix(suffix) for suffix in _SUFFIXES]
        source = next((file for file in files if file.exists()), None)
        if source is None:
            inspection.fault(
                f"'{texts.task}/{texts.number}.jpg' (nor .jpeg or .png) is not there, of {texts.where}"
            )
            continue
        about = {"input_caption": texts.source, "output_caption": texts.target}
        key = f"{texts.task}-{texts.number}"
        cases.append(
            Case(key, texts.task, "edit", texts.instruction, (inspection.file(source),), about=about)
        )
    inspection.finish()
    return BenchmarkCopy("editeval", tuple(cases), _path, published=50)


def _path(case: Case, number: int) -> PurePosixPath:
    task, _, image = case.key.rpartition("-")
    return PurePosixPath(task, f"{image}.png")


def _read(inspection: Inspection, path: Path) -> Iterator[_Texts]:
    """The rows of the workbook.

    A task's name stands in its first row alone, or in the heading above it; rows of a task are numbered as
    its images are.
    """
    task, number = "", 0
    columns: dict[str, int] = {}
    for line, cells in enumerate(read_sheet(path), start=1):
        if not any(cell.strip() for cell in cells):
            continue
        where = f"row {line} of '{path.name}'"
        first = cells[0].strip().lower().replace(" ", "_")
        first = _SPELT.get(first, first)
        if first in _FOLDERS and first != task:
            task, number = first, 0
        headings = {name: place for place, cell in enumerate(cells) if (name := _heading(cell))}
        if {"source", "target"} <= headings.keys():
            columns = headings
            continue
        if not columns:
            inspection.fault(f"{where} stands above a heading with 'Source Prompt' and 'Target Prompt'")
            inspection.finish()
        texts = {name: _cell(cells, place) for name, place in columns.items()}
        if not any(texts.values()):
            continue  # a task's name on a row of its own
        number += 1
        if not task:
            inspection.fault(f"{where} belongs to none of {', '.join(_FOLDERS)}")
        missing = [name for name in ("source", "target") if not texts[name]]
        if "instruction" in columns and not texts["instruction"]:
            missing.append("instruction")
        for name in missing:
            inspection.fault(f"{where} has no {name}")
        if task and not missing:
            # Before instructions were added there were only captions.
            instruction = texts.get("instruction") or texts["target"]
            yield _Texts(task, number, texts["source"], texts["target"], instruction, where)
    if not columns:
        inspection.fault(f"'{path.name}' has no heading with 'Source Prompt' and 'Target Prompt'")


def _heading(cell: str) -> str:
    words = cell.strip().lower()
    if words in ("source prompt", "target prompt"):
        return words.partition(" ")[0]
    return "instruction" if "instruction" in words and len(words) < 40 else ""


def _cell(cells: list[str], place: int) -> str:
    return " ".join(cells[place].split()) if place < len(cells) else ""
