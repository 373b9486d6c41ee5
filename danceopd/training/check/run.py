"""All checks of a run, in order, cheap ones first."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from danceopd.families import Examples, Family, RowsOfShape, load_family
from danceopd.training.check.cost import estimate_run
from danceopd.training.check.probe import Probe, cache_folder, folder_bytes, open_probe
from danceopd.training.check.report import CheckReport, Estimate, Resources, RouteRows, bytes_text
from danceopd.training.check.resources import check_cache, check_resources
from danceopd.training.check.samples import write_samples
from danceopd.training.check.self_test import run_self_test
from danceopd.training.check.teachers import describe_teachers
from danceopd.training.compiling import compile_failures_told
from danceopd.training.config import RunConfig
from danceopd.training.routes import asked_teachers, find_grids, name_routes, read_rows
from danceopd.training.run_folder import check_folder_writable
from danceopd.training.trainer import DanceOPDTrainer

Tell = Callable[[str, Sequence[str]], None]
"""``tell(step, found)``: called when a step of the check has passed, with what it found, in lines."""


class CheckedRun(NamedTuple):
    """A run that may start.

    Attributes:
        report: what was found.
        trainer: ready to train; the check leaves no trace in it.
    """

    report: CheckReport
    trainer: DanceOPDTrainer


def check_run(
    config: RunConfig,
    *,
    family: Family | None = None,
    samples: Path | None = None,
    resume: bool | str | Path | None = True,
    tell: Tell = lambda step, found: None,
) -> CheckedRun:
    """Try everything that a run needs before a day is spent on it, and stop at the first thing that fails.

    Rows first, all of them, before any weights are read; then disk and memory; then teachers and student, on
    a few rows. Nothing is written but the picture of the samples at the very end, and cache entries where the
    run's cache folder is there already.

    Args:
        config: of the run.
        family: the config's, where it is loaded already.
        samples: folder for the picture of the samples; None draws none.
        resume: as for `DanceOPDTrainer.train`, to find out whether it could start; None does not look.
        tell: is told each step that passed.

    Raises:
        ValueError, OSError, ImportError: in one sentence, what keeps the run from starting.
    """
    check_folder_writable(Path(config.output_dir))
    check_folder_writable(cache_folder(config), "cache_dir")
    if samples is not None:
        check_folder_writable(samples, "--out")
    if family is None:
        family = load_family(
            config.family,
            dtype=getattr(torch, config.dtype),
            device=config.device,
            resolution=config.resolution,
        )
    tell("config", [f"{config.family}, {len(config.teachers)} teachers, {len(config.routes)} routes"])

    asked = asked_teachers(config.teachers, config.routes, config.method)
    data = read_rows(family, config.routes)
    find_grids(family, config.routes, data, config.num_rollout_steps)
    shapes = [family.shapes(rows) for rows in data]
    rows = _describe_rows(config, shapes)
    tell("data", [entry.line() for entry in rows])

    from_files = [teacher for teacher in asked if teacher.identity is None]
    resources = check_resources(family.footprint(config.student, from_files), config, family.device)
    with open_probe(family, config, data, shapes) as probe:
        cache = _cache_bytes(config, probe, data)
        check_cache(resources, config, cache)
        resources = dataclasses.replace(resources, cache=cache)
        tell("resources", resources.lines())

        trainer = DanceOPDTrainer(
            family=family, teachers=config.teachers, routes=config.routes, config=config, data=data
        )
        if resume is not None:
            trainer.find_start(resume)
        with trainer.ranks.together():  # where a model is spread over them, none can call it alone
            # Fields are compared to the last bit, which compiled code rounds as it likes.
            with torch.compiler.set_stance("force_eager"):
                teachers = list(describe_teachers(trainer, probe))
                tell("teachers", [teacher.line() for teacher in teachers])
                self_test = run_self_test(trainer, probe)
                tell("self-test", self_test.lines())
            with compile_failures_told(config.compile):
                estimate = estimate_run(trainer, config.routes, probe)
            tell("estimate", estimate.lines())
            picture = None
            if samples is not None:
                picture = str(write_samples(trainer, probe, samples))
                tell("samples", [picture])
    warnings = [*_left_out(config), *_warnings(resources, estimate), *self_test.warnings()]
    report = CheckReport(rows, resources, teachers, self_test, estimate, picture, warnings)
    return CheckedRun(report, trainer)


def _describe_rows(config: RunConfig, shapes: Sequence[RowsOfShape]) -> list[RouteRows]:
    return [
        RouteRows(
            route=name,
            data=route.data if isinstance(route.data, str) else f"a {type(route.data).__name__}",
            rows=sum(map(len, of.values())),
            shapes={
                "x".join(map(str, shape)): len(rows)
                for shape, rows in sorted(of.items(), key=lambda entry: -len(entry[1]))
            },
        )
        for name, route, of in zip(name_routes(config.routes), config.routes, shapes, strict=True)
    ]


def _cache_bytes(config: RunConfig, probe: Probe, data: Sequence[Examples]) -> int:
    """Of the encoded rows that are still to be written."""
    rows = sum(map(len, data))
    if probe.bytes_per_row is not None:
        return round(rows * probe.bytes_per_row)
    folder = cache_folder(config)
    files = sum(1 for file in folder.rglob("*.safetensors"))
    return round(max(0, rows - files) * folder_bytes(folder) / max(1, files))


def _left_out(config: RunConfig) -> list[str]:
    """Guidance of teachers that the student starts from."""
    init = config.student.init
    names = {init} if isinstance(init, str) else set(init)
    return [
        f"student.init names '{teacher.name}', a teacher with guidance_scale={teacher.guidance_scale:g}, but "
        "weights cannot hold guidance: the student starts from them without it, and learns it where a route "
        "asks that teacher."
        for teacher in config.teachers
        if teacher.name in names and teacher.guidance_scale != 1.0
    ]


def _warnings(resources: Resources, estimate: Estimate) -> list[str]:
    found = []
    memory = estimate.memory
    still = memory.total - memory.loaded
    if still > memory.free:
        found.append(
            f"training will take about {bytes_text(still)} beside the models, but {resources.device} has "
            f"{bytes_text(memory.free)} free: lower batch_size (raise gradient_accumulation_steps), or set "
            "student.gradient_checkpointing."
        )
    if resources.encoders > memory.free:
        found.append(
            f"encoding the rows takes about {bytes_text(resources.encoders)} beside the models, but "
            f"{resources.device} has {bytes_text(memory.free)} free: encode on a larger device into a "
            "cache_dir that is kept."
        )
    return found
