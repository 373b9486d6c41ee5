"""The images of a contender, measured and judged, with whatever is known already left alone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import overload

from danceopd.evaluation.base import Benchmark, Case, Judge, Measured, Metric, MetricInfo
from danceopd.evaluation.generate import is_whole
from danceopd.evaluation.judges import JudgeSilent, judge_images
from danceopd.evaluation.metrics import DIVERSITY, Features, measure_diversity
from danceopd.evaluation.progress import track
from danceopd.evaluation.store import Store, read_measured
from danceopd.files import sha256_of

Picture = tuple[Case, int, Path]
"""A case, the number of its image, and where that lies."""


def pictures_of(benchmark: Benchmark, images: Path) -> Iterator[Picture]:
    """Every image that belongs into a contender's folder of images, made or not."""
    for case in benchmark.cases():
        for number in range(benchmark.images_per_case):
            yield case, number, images / benchmark.image_path(case, number)


def digests_of(benchmark: Benchmark, images: Path) -> dict[str, str]:
    """By the key of a case, a hash of its images together: their diversity hangs on all of them.

    Raises:
        OSError: an image cannot be read.
    """
    found = {case.key: hashlib.sha256() for case in benchmark.cases()}
    for case, _, path in pictures_of(benchmark, images):
        found[case.key].update((sha256_of(path) if is_whole(path) else "none").encode())
    return {key: digest.hexdigest() for key, digest in found.items()}


def measure_images(
    benchmark: Benchmark,
    images: Path,
    store: Store,
    metrics: Sequence[Metric],
    *,
    problems: Mapping[str, str] | None = None,
    name: str = "",
    progress: bool = True,
) -> None:
    """Add to `store` what it does not know of every image by every metric that applies.

    An image that is not there, or that a metric cannot read, is a problem in the store and no error.

    Args:
        benchmark: whose images they are.
        images: the folder that they lie in.
        store: of the contender.
        metrics: what to measure.
        problems: why cases have no images, by their keys.
        name: of the contender, for the progress.
        progress: whether to show it, on stderr.

    Raises:
        ValueError: a metric does not give the numbers that it says it gives.
        OSError: the store cannot be written.
    """
    wanted = [
        (picture, metric)
        for picture in pictures_of(benchmark, images)
        for metric in metrics
        if metric.applies(picture[0]) and not _known(store, picture, metric.measures)
    ]
    with track(f"{name} measurements".strip(), len(wanted), shown=progress) as advance:
        for (case, number, path), metric in wanted:
            store.add(_measured(metric, case, number, path, problems or {}))
            advance(1)


def judge_all(
    benchmark: Benchmark,
    images: Path,
    store: Store,
    judge: Judge,
    *,
    problems: Mapping[str, str] | None = None,
    concurrency: int = 4,
    name: str = "",
    progress: bool = True,
) -> None:
    """Add to `store` what it does not know of every image that the judge applies to.

    Images that got no scores before come last. Where a judge that has answered before answers none of these,
    they keep the problem that they have: else a few that it never takes would keep all from a report.

    Args:
        benchmark: whose images they are.
        images: the folder that they lie in.
        store: of the contender.
        judge: is asked by several threads.
        problems: why cases have no images, by their keys.
        concurrency: images that are judged at once.
        name: of the contender, for the progress.
        progress: whether to show it, on stderr.

    Raises:
        OSError: the judge answers nobody, or the store cannot be written.
    """
    wanted: list[Picture] = []
    again: list[Picture] = []
    for picture in pictures_of(benchmark, images):
        case, number, path = picture
        if not judge.applies(case) or _known(store, picture, judge.measures):
            continue
        if is_whole(path):
            failed = any(store.lacks(case.key, number, info.name) for info in judge.measures)
            (again if failed else wanted).append(picture)
        else:
            store.add(_lacking(judge.measures, case, number, _why_missing(case, path, problems or {})))
    new, done = len(wanted), 0
    wanted += again
    with (
        track(f"{name} judgements".strip(), len(wanted), shown=progress) as advance,
        closing(judge_images(judge, wanted, concurrency=concurrency)) as judged,
    ):
        try:
            for rows, (case, _, path) in zip(judged, wanted, strict=True):
                store.add(replace(row, problem=_told(row.problem, case, path)) for row in rows)
                done += 1
                advance(1)
        except JudgeSilent:
            case, number, _ = wanted[done]
            store.add(_lacking(judge.measures, case, number, "the judge gave no answer."))
            answered = {row.metric for row in store.rows() if row.value is not None}
            if done < new or answered.isdisjoint(info.name for info in judge.measures):
                raise


def unjudged(benchmark: Benchmark, images: Path, measured: Path, judge: Judge) -> list[Picture]:
    """The images, made or not, that `judge_all` would ask a judge about.

    Args:
        benchmark: whose images they are.
        images: the folder that they lie in.
        measured: the file of the contender's store; it need not be there.
        judge: is not asked.

    Raises:
        ValueError: a line of the file is no measurement.
        OSError: a file cannot be read.
    """
    by = dict.fromkeys([info.name for info in judge.measures], judge.by)
    rows = read_measured(measured, by, digests_of(benchmark, images))
    known = {(row.case, row.number, row.metric) for row in rows if row.value is not None}
    return [
        (case, number, path)
        for case, number, path in pictures_of(benchmark, images)
        if judge.applies(case) and not all((case.key, number, info.name) in known for info in judge.measures)
    ]


def add_diversity(benchmark: Benchmark, images: Path, store: Store, features: Features) -> None:
    """Add to `store` how much images of a case, and cases of a category, differ from each other."""
    cases = {case.key: case for case in benchmark.cases()}
    paths: dict[str, list[Path]] = {key: [] for key in cases}
    for case, _, path in pictures_of(benchmark, images):
        paths[case.key].append(path)
    whole = [(cases[key], of) for key, of in paths.items() if all(map(is_whole, of))]
    given = [info.name for info in DIVERSITY]
    # A distance is between images: one that came anew changes those of all others.
    if any(not any(store.has(case.key, 0, name) for name in given) for case, _ in whole):
        store.add(measure_diversity(whole, features))


def _known(store: Store, picture: Picture, measures: Sequence[MetricInfo]) -> bool:
    case, number, _ = picture
    return all(store.has(case.key, number, info.name) for info in measures)


def _measured(
    metric: Metric, case: Case, number: int, path: Path, problems: Mapping[str, str]
) -> list[Measured]:
    if not is_whole(path):
        return _lacking(metric.measures, case, number, _why_missing(case, path, problems))
    try:
        values = metric.measure(case, path)
    except (ValueError, OSError, SyntaxError) as error:  # the latter two from Pillow
        return _lacking(metric.measures, case, number, _told(str(error) or type(error).__name__, case, path))
    rows = []
    for info in metric.measures:
        if info.name not in values:
            given = ", ".join(values) or "nothing"
            raise ValueError(
                f"{type(metric).__name__}.measure gave {given} but no '{info.name}', which is one of its "
                "measures."
            )
        row = _row(info, case, number)
        value = float(values[info.name])
        problem = None if math.isfinite(value) else f"{info.title} is {value}, which is no number to compare."
        rows.append(replace(row, value=None if problem else value, problem=problem))
    return rows


def _lacking(measures: Sequence[MetricInfo], case: Case, number: int, problem: str) -> list[Measured]:
    return [replace(_row(info, case, number), problem=problem) for info in measures]


def _row(info: MetricInfo, case: Case, number: int) -> Measured:
    return Measured(case.key, case.category, case.capability, number, info.name, None)


def _why_missing(case: Case, path: Path, problems: Mapping[str, str]) -> str:
    told = _told(problems.get(case.key), case, path)
    return told or f"there is no whole image '{path.name}' of '{case.key}': it was not made."


@overload
def _told(problem: str, case: Case, path: Path) -> str: ...


@overload
def _told(problem: str | None, case: Case, path: Path) -> str | None: ...


def _told(problem: str | None, case: Case, path: Path) -> str | None:
    """A problem in one line, of files by their names alone: a report does not tell where it was made."""
    if problem is None:
        return None
    for file in (path, *case.sources, case.mask, case.target):
        problem = problem if file is None else problem.replace(str(file), file.name)
    return " ".join(problem.split())
