"""The evaluators of others by name: which benchmark each one scores, what it is handed, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple

from danceopd.evaluation.base import Benchmark, Case, Measured, MetricInfo
from danceopd.evaluation.contenders import Contender, Part
from danceopd.evaluation.generate import IMAGES, is_whole, problems_in
from danceopd.evaluation.judges import EVALSCOPE, GENEVAL, read_evalscope, read_geneval, write_evalscope
from danceopd.evaluation.measure import pictures_of


@dataclass(frozen=True)
class Evaluator:
    """Software of others that scores a benchmark; it is neither installed nor run here.

    Attributes:
        name: one word.
        title: what a sentence calls it.
        benchmark: name of the one that it scores.
        measures: the numbers that it gives.
        step: what to do with what is handed over, in a clause.
        results: what its results are, in a few words.
        read: the rows of its results at a path.
        write: the file that it needs beside the images; None where the images are all.
    """

    name: str
    title: str
    benchmark: str
    measures: tuple[MetricInfo, ...]
    step: str
    results: str
    read: Callable[[Benchmark, Path], list[Measured]]
    write: Callable[[Benchmark, Path, Path], Path] | None = None


EVALUATORS: Final[Mapping[str, Evaluator]] = {
    "evalscope": Evaluator(
        "evalscope",
        "EvalScope",
        "gedit",
        EVALSCOPE,
        "give each file to EvalScope as the local_file of its dataset gedit",
        "EvalScope's output folder, with reviews in it",
        read_evalscope,
        write_evalscope,
    ),
    "geneval": Evaluator(
        "geneval",
        "GenEval's evaluator",
        "geneval",
        GENEVAL,
        "give each folder to GenEval's evaluate_images.py",
        "the file that its evaluator's --outfile named",
        read_geneval,
    ),
}
"""By their names; each scores another benchmark."""


class Handed(NamedTuple):
    """What an evaluator is given of a contender.

    Attributes:
        path: the file that it reads, or the folder of images.
        images: how many are in it.
        missing: how many the contender lacks.
    """

    path: Path
    images: int
    missing: int


@dataclass(frozen=True)
class _Without(Part):
    """A part of a benchmark without some cases."""

    gone: frozenset[str]

    def cases(self) -> Sequence[Case]:
        return [case for case in super().cases() if case.key not in self.gone]


def hand_over(evaluator: Evaluator, benchmark: Benchmark, contender: Contender, out: Path) -> Handed:
    """Write what the evaluator needs beside a contender's images; cases without images stay out of it.

    Args:
        evaluator: for whom.
        benchmark: what was drawn.
        contender: who drew it.
        out: folder of the evaluation.

    Raises:
        ValueError: none of the images is there.
        OSError: the file cannot be written.
    """
    images = out / contender.folder / IMAGES
    pictures = list(pictures_of(Part(benchmark, contender.only), images))
    gone = [case.key for case, _, path in pictures if not is_whole(path)]
    if len(gone) == len(pictures):
        raise ValueError(f"'{images}' has no image to hand over: the report says why.")
    path = images
    if evaluator.write is not None:
        rest = _Without(benchmark, contender.only, frozenset(gone))
        path = evaluator.write(rest, images, images.with_name(f"{evaluator.name}.jsonl"))
    return Handed(path, len(pictures) - len(gone), len(gone))


def read_results(
    evaluator: Evaluator, benchmark: Benchmark, contender: Contender, out: Path, results: Path
) -> list[Measured]:
    """What an evaluator says of a contender's images, as `add_measured` takes it.

    Args:
        evaluator: whose results they are.
        benchmark: what was drawn.
        contender: who drew it.
        out: folder of the evaluation.
        results: as `Evaluator.results` says.

    Raises:
        ValueError: they are no such results, or have no number about these images.
        OSError: they cannot be read.
    """
    rows = evaluator.read(Part(benchmark, contender.only), results)
    if all(row.value is None for row in rows):
        raise ValueError(f"'{results}' has no number about these images: name {evaluator.results}.")
    why = problems_in(out / contender.folder)
    return [replace(row, problem=why.get(row.case, row.problem)) if row.problem else row for row in rows]
