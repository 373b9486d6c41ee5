"""A run's student, read back for sampling and evaluation."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

import torch

from danceopd.families import Family, Student, load_family
from danceopd.flow import VelocityField
from danceopd.settings import ConfigError
from danceopd.training.checkpoint import list_checkpoints, load_checkpoint
from danceopd.training.config import RunConfig
from danceopd.training.config_file import load_run_config
from danceopd.training.errors import CheckpointError
from danceopd.training.run_folder import CHECKPOINTS, CONFIG
from danceopd.training.weights import TrainedWeights


def run_of(place: Path) -> tuple[Path, Path | None]:
    """The run folder that ``place`` is, or in which it is a checkpoint, and that checkpoint."""
    if not (place / CONFIG).is_file():
        for folder in (place.absolute(), place.resolve()):
            if folder.parent.name == CHECKPOINTS:
                return folder.parents[1], place
    return place, None


class LoadedStudent(NamedTuple):
    """A student, ready to sample from.

    Attributes:
        family: what the student belongs to.
        field: its velocity field, frozen, with the running mean of the weights when the run kept one.
        student: the same with its module, as `Family.student` made it.
        step: updates it has seen.
        config: the run's settings.
    """

    family: Family
    field: VelocityField
    student: Student
    step: int
    config: RunConfig

    def __repr__(self) -> str:
        """What it is, and not the thousand layers of its module."""
        kind = self.config.student.kind
        return f"LoadedStudent(family={self.family.name!r}, step={self.step}, kind={kind!r})"


def load_student(
    run: str | Path, *, device: torch.device | str | None = None, family: Family | None = None
) -> LoadedStudent:
    """The student of the run folder ``run`` at its newest checkpoint, whether the run has ended or not.

    The folder of one of its checkpoints, ``run/checkpoints/step-...``, gives the student of that one.

    Teachers, and the files that the student started from, are not needed, but for what lies frozen under it:
    the family's own checkpoint, and what a LoRA of ShapesWorld's was trained on.

    Args:
        run: an output_dir, or a checkpoint in one.
        device: where to put it; the run's own device when None.
        family: of the run, where others share its weights; one is loaded when None.

    Raises:
        ConfigError: if ``run`` is not the folder of a run.
        CheckpointError: if it has no checkpoint yet, a damaged one, or one of another student.
        ValueError: from the family, for weights under the student that are not there.
    """
    folder, chosen = run_of(Path(run))
    if not (folder / CONFIG).is_file():
        raise ConfigError(
            f"'{folder}' is not the folder of a run: it has no {CONFIG}; name a run's output_dir."
        )
    config = load_run_config(folder / CONFIG)
    checkpoints = list_checkpoints(folder / CHECKPOINTS) if chosen is None else [chosen]
    if not checkpoints:
        raise CheckpointError(
            f"the run '{folder}' has no checkpoint yet: train it first, or save more often."
        )
    checkpoint = load_checkpoint(checkpoints[-1])
    if family is None:
        family = load_family(
            config.family,
            dtype=getattr(torch, config.dtype),
            device=device or config.device,
            resolution=config.resolution,
        )
    trained = checkpoint.ema or checkpoint.student
    student = family.restored_student(config.student, trained)
    plain = dataclasses.replace(config, optimizer="adamw")  # nothing is trained, so its own may be missing
    TrainedWeights(student.module, plain).load(trained, {})
    student.module.requires_grad_(False)
    return LoadedStudent(family, student.field, student, checkpoint.step, config)
