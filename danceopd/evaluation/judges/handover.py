"""Images handed over to the evaluators of others, and what these say of them read back.

EvalScope scores GEdit-Bench, and GenEval comes with an evaluator of its own. Neither is installed or run
here: what they read is written, and the files that they write become `Measured` rows. An image that they say
nothing of becomes a row with a problem.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

from danceopd.evaluation.base import Benchmark, Case, Measured, MetricInfo
from danceopd.files import write_whole

GENEVAL: Final = (MetricInfo("correct@geneval", True, "Correct (GenEval's evaluator)"),)
EVALSCOPE: Final = (
    MetricInfo("semantic_consistency@evalscope", True, "Semantic consistency (EvalScope)"),
    MetricInfo("perceptual_quality@evalscope", True, "Perceptual quality (EvalScope)"),
    MetricInfo("overall@evalscope", True, "Overall (EvalScope)"),
)

# As EvalScope calls them, and as it did before.
_EVALSCOPE_NAMES: Final = {
    "semantic_consistency@evalscope": ("semantic_consistency", "Semantic Consistency"),
    "perceptual_quality@evalscope": (
        "perceptual_similarity",
        "Perceptual Similarity",
        "perceptual_quality",
        "Perceptual Quality",
    ),
    "overall@evalscope": ("normalized_score", "overall", "Overall"),
}


def write_evalscope(benchmark: Benchmark, images: Path, out: Path) -> Path:
    """Write the file that EvalScope's `local_file` names: a line per task with its id and its image.

    Its benchmark `gedit` knows a task by GEdit-Bench's own key, which `Case.about` has as ``key``.

    Args:
        benchmark: GEdit-Bench.
        images: the folder that the images were generated into, as the benchmark lays it out.
        out: a .jsonl file.

    Raises:
        ValueError: images are missing, or the benchmark's tasks have no such key.
        OSError: the file cannot be written.
    """
    lines, missing = [], []
    for key, case in _by_key(benchmark).items():
        # Absolute, because EvalScope opens it from wherever it was started.
        image = (images / benchmark.image_path(case, 0)).resolve()
        if not image.is_file():
            missing.append(image)
        lines.append(json.dumps({"id": key, "image_path": str(image)}, ensure_ascii=False))
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(lines)} images are missing, such as '{missing[0]}': generate them first."
        )
    return write_whole(out, "".join(f"{line}\n" for line in lines).encode())


def read_evalscope(benchmark: Benchmark, outputs: Path) -> list[Measured]:
    """What EvalScope says of each image.

    Args:
        benchmark: GEdit-Bench, as it was handed over.
        outputs: EvalScope's output folder of that run, with ``reviews/MODEL/gedit_SUBSET.jsonl`` in it.

    Raises:
        ValueError: there are no reviews, those of several models, or a line is no review of GEdit-Bench.
        OSError: a file cannot be read.
    """
    files = sorted(outputs.glob("reviews/*/gedit_*.jsonl"))
    if not files:
        raise ValueError(
            f"'{outputs}' has no reviews/MODEL/gedit_SUBSET.jsonl: name EvalScope's output folder."
        )
    if len({file.parent for file in files}) > 1:
        models = ", ".join(sorted({file.parent.name for file in files}))
        raise ValueError(
            f"'{outputs}' has reviews of several models ({models}): evaluate them into one each."
        )
    cases = _by_key(benchmark)
    said: dict[str, dict[str, float]] = {}
    for where, line in _lines(files):
        try:
            score = line["sample_score"]
            about, values = score["sample_metadata"], score["score"]["value"]
            key = str(about["id"] if "id" in about else about["key"])
            values = {} if values is None else dict(**values)
        except (KeyError, TypeError):
            raise ValueError(f"{where} is no review of GEdit-Bench: it has no id or no scores.") from None
        said[key] = {
            name: float(values[told])
            for name, names in _EVALSCOPE_NAMES.items()
            for told in names
            if told in values and _is_number(values[told])
        }
    rows = []
    for key, case in cases.items():
        values = said.get(key, {})
        for info in EVALSCOPE:
            problem = None if info.name in values else "EvalScope says nothing of this image."
            rows.append(_row(case, 0, info.name, values.get(info.name), problem))
    return rows


def read_geneval(benchmark: Benchmark, results: Path) -> list[Measured]:
    """What GenEval's evaluator says of each image: 1 where it is correct, else 0.

    Args:
        benchmark: GenEval, whose images lie as its evaluator reads them.
        results: the file that its `--outfile` named.

    Raises:
        ValueError: a line is no result, or is about an image of something else.
        OSError: the file cannot be read.
    """
    places: dict[PurePosixPath, tuple[Case, int]] = {}
    for case in benchmark.cases():
        for number in range(benchmark.images_per_case):
            places[benchmark.image_path(case, number)] = (case, number)
    depths = {len(place.parts) for place in places}
    said: dict[PurePosixPath, bool] = {}
    for where, line in _lines([results]):
        try:
            parts, correct = PurePosixPath(line["filename"]).parts, line["correct"]
        except (KeyError, TypeError):
            raise ValueError(f"{where} is no result of GenEval: it has no filename or no verdict.") from None
        ends = [place for depth in depths if (place := PurePosixPath(*parts[-depth:])) in places]
        if not ends or correct not in (True, False):
            raise ValueError(
                f"{where} is no result for this benchmark: its image is '{line['filename']}' and its verdict "
                f"{correct!r}."
            )
        said[ends[0]] = bool(correct)
    (info,) = GENEVAL
    return [
        _row(case, number, info.name, float(said[place]))
        if place in said
        else _row(case, number, info.name, None, "GenEval's evaluator says nothing of this image.")
        for place, (case, number) in places.items()
    ]


def _by_key(benchmark: Benchmark) -> dict[str, Case]:
    """Cases by the key that GEdit-Bench itself gives them."""
    cases: dict[str, Case] = {}
    for case in benchmark.cases():
        if "key" not in case.about:
            raise ValueError(f"case '{case.key}' has no GEdit-Bench key, so EvalScope cannot know it.")
        other = cases.setdefault(str(case.about["key"]), case)
        if other is not case:
            raise ValueError(
                f"cases '{other.key}' and '{case.key}' have one GEdit-Bench key: hand over one language at a "
                "time, as EvalScope takes them."
            )
    return cases


def _lines(files: Sequence[Path]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for file in files:
        for number, text in enumerate(file.read_bytes().splitlines(), start=1):
            where = f"line {number} of '{file}'"
            if text.strip():
                try:
                    line = json.loads(text)
                except (ValueError, RecursionError):
                    raise ValueError(f"{where} is not JSON: was the evaluator interrupted?") from None
                yield where, line


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _row(case: Case, number: int, metric: str, value: float | None, problem: str | None = None) -> Measured:
    return Measured(case.key, case.category, case.capability, number, metric, value, problem)
