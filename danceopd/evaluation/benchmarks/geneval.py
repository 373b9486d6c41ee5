"""GenEval (arXiv 2310.11513): captions of objects, counts, colours and places, judged by a detector."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from danceopd.evaluation.base import Case
from danceopd.evaluation.benchmarks.layout import BenchmarkCopy, Inspection
from danceopd.evaluation.metrics.geneval import COLOURS, RELATIONS

_PROMPTS = "evaluation_metadata.jsonl"


def open_geneval(folder: Path) -> BenchmarkCopy:
    """GenEval's prompts, from a clone of its repository or a folder with its `evaluation_metadata.jsonl`.

    A case's key is the number of its line, `about` is that line. Its evaluator reads
    ``00000/metadata.jsonl`` and ``00000/samples/0000.png`` to ``0003.png``.

    Raises:
        DataError: the file is not there, or lines of it cannot be used.
    """
    inspection = Inspection("GenEval", folder)
    path = inspection.find(f"prompts/{_PROMPTS}", _PROMPTS)
    cases, files = [], {}
    lines = [line for line in path.read_bytes().split(b"\n") if line.strip()]
    for number, line in enumerate(lines):
        about, fault = _read(line)
        if fault:
            inspection.fault(f"line {number + 1} of '{path.name}' {fault}")
            continue
        key = f"{number:05d}"
        cases.append(Case(key, about["tag"], "t2i", about["prompt"], about=about))
        files[PurePosixPath(key, "metadata.jsonl")] = line.strip() + b"\n"
    if not lines:
        inspection.fault(f"'{path.name}' has no line")
    inspection.finish()
    return BenchmarkCopy("geneval", tuple(cases), _path, files, images_per_case=4, published=553)


def _path(case: Case, number: int) -> PurePosixPath:
    return PurePosixPath(case.key, "samples", f"{number:04d}.png")


def _read(line: bytes) -> tuple[dict[str, Any], str]:
    """A line, and what is wrong with it."""
    try:
        about = json.loads(line)
    except (ValueError, RecursionError):
        return {}, "is no JSON"
    if not isinstance(about, dict):
        return {}, "is no JSON object"
    for name in ("tag", "prompt"):
        if not isinstance(about.get(name), str) or not about[name].strip():
            return {}, f"has no {name}"
    include, exclude = about.get("include"), about.get("exclude", [])
    if not isinstance(include, list) or not include or not isinstance(exclude, list):
        return {}, "has no list of objects to include"
    for wanted in (*include, *exclude):
        named = isinstance(wanted, dict) and isinstance(wanted.get("class"), str)
        if not named or "count" not in wanted:
            return {}, "names an object without class or count"
        if not _is_whole(wanted["count"]) or wanted["count"] < 1:
            return {}, f"has the count {wanted['count']!r} where a whole number of at least 1 belongs"
    return about, next(filter(None, map(_wrong, include, range(len(include)))), "")


def _wrong(clause: Mapping[str, Any], earlier: int) -> str:
    """What is wrong with a clause that comes after so many others."""
    if "color" in clause and clause["color"] not in COLOURS:
        return f"has the colour {clause['color']!r} where one of {', '.join(COLOURS)} belongs"
    if "position" in clause:
        match clause["position"]:
            case [relation, index] if relation in RELATIONS and _is_whole(index) and 0 <= index < earlier:
                return ""
        return (
            f"has the position {clause['position']!r} where a pair belongs: {', '.join(RELATIONS)}, and the "
            "number of an earlier object, from 0"
        )
    return ""


def _is_whole(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)
