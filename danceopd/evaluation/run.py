"""From a benchmark and contenders to the report: images, measurements, judgements, comparison."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from danceopd.evaluation.base import Benchmark, Judge, Measured, Metric, MetricInfo
from danceopd.evaluation.batches import Share, share_of_environment
from danceopd.evaluation.contenders import AnyContender, Contender, FormerStudent, Part
from danceopd.evaluation.generate import IMAGES, Generated, generate, is_whole, problems_in
from danceopd.evaluation.identity import GENERATION, model_in
from danceopd.evaluation.measure import add_diversity, digests_of, judge_all, measure_images, pictures_of
from danceopd.evaluation.metrics import DIVERSITY, Features
from danceopd.evaluation.record import RECORD, Record, read_evaluation, read_record, write_record
from danceopd.evaluation.report import Report, make_report, write_report
from danceopd.evaluation.store import MEASURED, open_store
from danceopd.flow import VelocityField

REPORT: Final = "report"
"""Folder of the report, in an evaluation's folder."""

_SECONDS_BETWEEN_LOOKS: Final = 1.0
_SECONDS_UNTIL_TOLD: Final = 60.0
_SECONDS_WITHOUT_AN_IMAGE: Final = 1800.0


def evaluate_benchmark(
    benchmark: Benchmark,
    contenders: Sequence[AnyContender],
    out: Path,
    *,
    metrics: Sequence[Metric] = (),
    judges: Sequence[Judge] = (),
    diversity: Features | None = None,
    measured_by: Mapping[str, str] | None = None,
    seed: int = 0,
    num_steps: int,
    guidance_scale: float = 1.0,
    batch_size: int = 8,
    margin: float = 0.05,
    concurrency: int = 4,
    share: Share | None = None,
    progress: bool = True,
) -> Report | None:
    """Draw a benchmark by every contender, measure and judge the images, and report what the student kept.

    May be killed at any moment and called again: whole images are kept, and what was measured or judged is
    not measured or judged again. What could not be measured or judged counts as a problem in the report, and
    is tried again by the next call.

    Writes ``NAME/`` of every contender (see `generate`; and measured.jsonl), ``evaluation.json`` and
    ``report/`` into `out`. Equal measurements make an equal report, byte by byte.

    Args:
        benchmark: what to draw.
        contenders: the student first; see `contenders_of_run`.
        out: folder of this evaluation; a second evaluation of the same student on the same benchmark may
            follow in it, with other metrics, judges and contenders.
        metrics: what to measure on this machine; names of measures differ.
        judges: whom to ask.
        diversity: in whose space distances between images are taken; None measures no diversity.
        measured_by: what measures a metric, by the metric's name, such as the hash of its weights; numbers by
            something else are measured anew. Judges say it of themselves (`Judge.by`).
        seed: of the noise, the same for all.
        num_steps: Euler steps from noise to image.
        guidance_scale: classifier-free guidance on top of every contender; 1 for none.
        batch_size: images per forward.
        margin: what counts as no loss, as a share of the other's mean.
        concurrency: images that are judged at once.
        share: number of this process and how many there are, see `generate`. The first one waits for the
            images of the others, measures and reports.
        progress: whether to show it, on stderr.

    Returns:
        The report; None in processes other than the first.

    Raises:
        ValueError: there is no contender, names are there twice, `out` is of another evaluation, or a former
            evaluation is of another one.
        OSError: a file cannot be written, a judge answers nobody, or the other processes make no images.
    """
    if not 0 <= margin < math.inf:  # now, and not when all is drawn and judged
        raise ValueError(f"margin must be at least 0, but got {margin}; 0.05 is 5 % of the other's score.")
    rank, size = share_of_environment() if share is None else share
    measures = measures_of(metrics, judges, diversity is not None)
    student, *others = contenders
    if isinstance(student, FormerStudent):
        raise ValueError(f"the student '{student.name}' must be one that draws: give a Contender first.")
    names = [contender.name for contender in contenders]
    if len(set(names)) < len(names):
        raise ValueError(f"contenders are named {', '.join(names)}: give every one its own name.")
    settings = {"seed": seed, "num_steps": num_steps, "guidance_scale": float(guidance_scale)}
    by = {info.name: judge.by for judge in judges if judge.by for info in judge.measures}
    by |= measured_by or {}
    record = Record(benchmark.name, benchmark.fingerprint(), student.folder, settings, measures, by)
    record = _continued(record, out)
    measured = {
        contender.name: _former(contender, record)
        for contender in others
        if isinstance(contender, FormerStudent)
    }
    drawing = [contender for contender in contenders if isinstance(contender, Contender)]
    parts = {contender.name: Part(benchmark, contender.only) for contender in contenders}
    for contender in drawing:
        _draw(
            parts[contender.name],
            contender,
            out / contender.folder,
            batch_size=batch_size,
            share=(rank, size),
            progress=progress,
            **settings,
        )
    if rank > 0:
        return None
    write_record(out, record)
    for contender in drawing:
        part, folder = parts[contender.name], out / contender.folder
        _wait_for_all(part, folder, shown=progress)
        told: dict[str, Any] = {"problems": problems_in(folder), "name": contender.name, "progress": progress}
        with open_store(folder / MEASURED, record.by, digests_of(part, folder / IMAGES)) as store:
            measure_images(part, folder / IMAGES, store, metrics, **told)
            if diversity is not None:
                add_diversity(part, folder / IMAGES, store, diversity)
            for judge in judges:
                judge_all(part, folder / IMAGES, store, judge, concurrency=concurrency, **told)
            measured[contender.name] = store.rows()
    rows = {name: measured[name] for name in names}
    only = {contender.name: contender.only for contender in others if contender.only}
    models = {contender.name: _model_of(contender, out) for contender in contenders}
    report = make_report(record, rows, benchmark.cases(), margin=margin, only=only, models=models)
    images = {contender.name: images_of(contender, out) for contender in contenders}
    write_report(report, out / REPORT, benchmark, images)
    return report


def add_measured(
    out: Path,
    contender: str,
    rows: Iterable[Measured],
    measures: Sequence[MetricInfo],
    *,
    images: Mapping[str, str] | None = None,
) -> None:
    """Add what somebody else measured to an evaluation; the next `evaluate_benchmark` there reports it.

    Args:
        out: folder of the evaluation.
        contender: folder of the contender in it.
        rows: such as `danceopd.evaluation.judges.read_evalscope` gives.
        measures: the metrics of the rows.
        images: of which images they are, as `danceopd.evaluation.measure.digests_of` says; once these change,
            the rows no longer count. They always do when None.

    Raises:
        ValueError: `out` is not the folder of an evaluation, or has no such contender.
        OSError: a file cannot be written.
    """
    record = read_record(out)
    if not (out / contender / GENERATION).is_file():
        raise ValueError(f"'{out}' has no contender '{contender}': name one of its folders.")
    record = record.after(measures, {})
    with open_store(out / contender / MEASURED, record.by, images) as store:
        store.add(rows)
    write_record(out, record)


def measures_of(
    metrics: Sequence[Metric], judges: Sequence[Judge], diversity: bool
) -> tuple[MetricInfo, ...]:
    """All measures, those of judges first.

    Raises:
        ValueError: two have one name.
    """
    every = [info for judge in judges for info in judge.measures]
    every += [info for metric in metrics for info in metric.measures]
    every += DIVERSITY if diversity else ()
    names = [info.name for info in every]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"'{name}' is measured by two metrics or judges: name their measures apart.")
    return tuple(every)


def missing(benchmark: Benchmark, images: Path) -> int:
    """How many images of a benchmark are not in a contender's folder of images."""
    return sum(not is_whole(path) for _, _, path in pictures_of(benchmark, images))


def images_of(contender: AnyContender, out: Path) -> Path:
    """The folder of a contender's images."""
    if isinstance(contender, FormerStudent):
        return contender.path / read_record(contender.path).student / IMAGES
    return out / contender.folder / IMAGES


def _draw(part: Part, contender: Contender, folder: Path, **settings: Any) -> Generated:
    field: VelocityField = _unasked
    if missing(part, folder / IMAGES):
        field = contender.field()
    return generate(part, contender.family, field, folder, identity=contender.identity, **settings)


def _unasked(sample: Tensor, sigma: Tensor, condition: Any) -> Tensor:
    raise AssertionError("all images are there")


def _wait_for_all(part: Part, folder: Path, *, shown: bool) -> None:
    """Return when no image is missing but those of cases that have problems.

    Raises:
        TimeoutError: none has come for half an hour.
    """
    last: list[Path] = []
    since, told = 0.0, False
    while lacking := _lacking(part, folder):
        now = time.monotonic()
        if lacking != last:
            last, since, told = lacking, now, False
        which = f"{len(lacking)} images of other processes, such as '{lacking[0]}'"
        if now - since >= _SECONDS_WITHOUT_AN_IMAGE:
            raise TimeoutError(
                f"waited {_SECONDS_WITHOUT_AN_IMAGE / 60:.0f} minutes in vain for {which}: see why these "
                "ended, and give the same command again, which keeps what is there."
            )
        if shown and not told and now - since >= _SECONDS_UNTIL_TOLD:
            print(f"waiting for {which}", file=sys.stderr, flush=True)
            told = True
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _lacking(part: Part, folder: Path) -> list[Path]:
    told = problems_in(folder)
    pictures = pictures_of(part, folder / IMAGES)
    return [path for case, _, path in pictures if case.key not in told and not is_whole(path)]


def _continued(record: Record, out: Path) -> Record:
    """The record with what the folder knows of other metrics.

    Raises:
        ValueError: the folder is of another evaluation.
    """
    if not (out / RECORD).exists():
        return record
    before = read_record(out)
    differences = _differences(before, record)
    if before.student != record.student:
        differences.append(f"the student is {before.student} there and {record.student} here")
    if differences:
        raise ValueError(
            f"'{out}' holds another evaluation ({'; '.join(differences)}): give another folder, or remove it."
        )
    return before.after(record.measures, record.by)


def _former(contender: FormerStudent, record: Record) -> list[Measured]:
    before, rows = read_evaluation(contender.path)
    model_in(contender.path / before.student)  # told now rather than after the images were made
    differences = _differences(before, record)
    differences += [
        f"{name} is measured by something else"
        for name in sorted(record.by.keys() & before.by.keys())
        if record.by[name] != before.by[name]
    ]
    if differences:
        raise ValueError(
            f"'{contender.path}' cannot be compared with this evaluation ({'; '.join(differences)}): "
            "evaluate both alike."
        )
    return rows


def _differences(there: Record, here: Record) -> list[str]:
    told = []
    if there.benchmark != here.benchmark:
        told.append(f"the benchmark is {there.benchmark} there and {here.benchmark} here")
    elif there.fingerprint != here.fingerprint:
        told.append("the copy of the benchmark is another one")
    for name in here.settings:
        if there.settings.get(name) != here.settings[name]:
            told.append(f"{name} is {there.settings.get(name)} there and {here.settings[name]} here")
    return told


def _model_of(contender: AnyContender, out: Path) -> Mapping[str, Any]:
    """What drew a contender's images, as its folder says."""
    return model_in(images_of(contender, out).parent)
