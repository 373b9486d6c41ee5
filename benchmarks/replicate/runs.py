"""One run: train, judge, keep the result. A result that is there is never made again."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import statistics
import time
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from danceopd.families import Student
from danceopd.shapesworld import ShapesWorldFamily
from danceopd.training import (
    Callback,
    DivergedError,
    list_checkpoints,
    load_checkpoint,
    read_metrics,
)
from danceopd.training.config import as_mapping

from .jobs import SETTINGS, Job, starting_at
from .judge import judge
from .made_by import installed

RESULT = "result.json"


class BrokenResultError(ValueError):
    """A result that cannot be read."""


def result_path(job: Job, out: Path) -> Path:
    """Where the result of a job is, or will be."""
    return out / "runs" / job.key / RESULT


def read_result(job: Job, out: Path) -> dict[str, Any] | None:
    """The result of a job, None while there is none.

    Raises:
        BrokenResultError: what is there is no whole result.
    """
    path = result_path(job, out)
    if not path.exists():
        return None
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        result = None
    if not isinstance(result, dict):
        raise BrokenResultError(f"'{path}' is no whole result: remove it, and the run is done again.")
    return result


def run_job(job: Job, out: Path) -> Path:
    """Do a job, or go on with it where it was stopped; returns the path of its result.

    Raises:
        KeyboardInterrupt: a signal came; what was trained is saved.
    """
    torch.set_num_threads(1)
    path = result_path(job, out)
    if path.exists():
        return path
    made_by = installed()  # before hours in which somebody may edit the code
    folder = path.parent / "training"
    done = _train(job, folder) if job.weights is None else _given(job)
    result = {"job": dataclasses.asdict(job), "made_by": made_by, **done}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result) + "\n", encoding="utf-8")
    os.replace(part, path)
    # Curves are drawn from the result; a hundred runs' checkpoints would fill a small disk.
    shutil.rmtree(folder, ignore_errors=True)
    return path


def _given(job: Job) -> dict[str, Any]:
    family = job.family()
    student = _frozen_student(job, family, job.weights or {})
    told: dict[str, Any] = {
        "compute": 0.0,
        "seconds": 0.0,
        "diverged": None,
        "config": {},
        "loss": [],
        "curve": [],
    }
    return told | _judge_end(job, family, student)


def _train(job: Job, folder: Path) -> dict[str, Any]:
    clock, diverged = _Clock(), None
    trainer = job.trainer(folder, [clock])
    try:
        ended = trainer.train()
        if ended.stopped_by is not None:
            raise KeyboardInterrupt(f"stopped after {ended.step} of {job.updates} updates")
    except DivergedError as error:
        diverged = str(error)
    lines = read_metrics(folder / "metrics.jsonl")
    per_sample = job.compute_per_sample()
    compute = list(accumulate(x["forwards"] + per_sample * sum(x["samples"].values()) for x in lines))
    family = job.family()
    # One that diverged in its first update has saved nothing, and is what it was.
    student = _frozen_student(job, family, job.start or SETTINGS[job.setting].start)
    curve = []
    for place in list_checkpoints(folder / "checkpoints"):
        checkpoint = load_checkpoint(place)
        student.module.load_state_dict(checkpoint.ema or checkpoint.student)
        if job.judging.curve > 1:
            point = _judge(job, family, student, job.judging.curve_prompts)
            curve.append({"updates": checkpoint.step, "compute": compute[checkpoint.step - 1], **point})
    return {
        "compute": compute[-1] if compute else 0.0,
        # By the median, since a run that was interrupted has been measured in its last part only.
        "seconds": len(lines) * clock.median,
        "diverged": diverged,
        "config": as_mapping(trainer.run),
        "loss": [[line["step"], line["loss"]] for line in lines[:: max(1, len(lines) // 50)]],
        "curve": curve,
        **_judge_end(job, family, student),
    }


def _frozen_student(job: Job, family: ShapesWorldFamily, weights: Mapping[str, float]) -> Student:
    student = family.student(starting_at(weights))
    student.module.requires_grad_(False)
    return student


def _judge_end(job: Job, family: ShapesWorldFamily, student: Student) -> dict[str, Any]:
    scales = {
        str(scale): _judge(job, family, student, job.judging.prompts, scale) for scale in job.judging.scales
    }
    return {**_judge(job, family, student, job.judging.prompts), "scales": scales}


def _judge(
    job: Job, family: ShapesWorldFamily, student: Student, prompts: int, scale: float = 1.0
) -> dict[str, Any]:
    teachers = dict(zip(job.grounds, map(family.teacher, job.teachers()), strict=True))
    return judge(
        family, student.field, teachers, prompts=prompts, split=job.judging.split, guidance_scale=scale
    )


class _Clock(Callback):
    """CPU seconds of updates, which other processes on the machine hardly change."""

    def __init__(self) -> None:
        self._seconds: list[float] = []
        self._last = 0.0

    def on_start(self, trainer: object) -> None:
        """Begin."""
        self._last = time.process_time()

    def on_update(self, line: Mapping[str, Any]) -> None:
        """Note."""
        now = time.process_time()
        self._seconds.append(now - self._last)
        self._last = now

    @property
    def median(self) -> float:
        """Of one update; 0 where none was done."""
        return statistics.median(self._seconds) if self._seconds else 0.0
