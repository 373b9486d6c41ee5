"""Which fields a run holds, and how far apart two of them are."""

from __future__ import annotations

import torch
from torch import Tensor

from danceopd.families import Teacher
from danceopd.flow import AdapterField, VelocityField, parts_of, velocity_of
from danceopd.training.batch import PlannedBatch
from danceopd.training.trainer import DanceOPDTrainer


def adapter_of(field: object) -> AdapterField | None:
    """The field inside that runs an adapter, None where there is none."""
    fields = (part for part in parts_of(field) if isinstance(part, AdapterField))
    return next((part for part in fields if part.adapter is not None), None)


def base_field(trainer: DanceOPDTrainer, guidance_vector: float | None = None) -> VelocityField | None:
    """The base's field, None where the run does not hold the base in memory and would have to load it."""
    student = trainer.config.student
    shares = isinstance(trainer.student.field, AdapterField)
    from_files = (teacher for teacher in trainer.asked if teacher.identity is None)
    if shares or any(teacher.checkpoint is None for teacher in from_files):
        return trainer.family.teacher(Teacher("base", guidance_vector=guidance_vector))
    return trainer.student.field if student.init == "base" else None


@torch.no_grad()
def first_velocity(field: VelocityField, batch: PlannedBatch, name: str = "the field") -> Tensor:
    """fp32 velocity [S, ...] at the noise that a batch starts from; messages call the field by `name`."""
    noise = batch.batch.noise
    sigma = batch.grid.tensor(noise.device)[0].expand(len(noise))
    return velocity_of(field, name, noise.float(), sigma, batch.batch.condition).float()


def distance(value: Tensor, reference: Tensor) -> float:
    """``|value - reference| / |reference|``; 0 for equal ones and for nothing else."""
    if torch.equal(value, reference):
        return 0.0
    apart = float((value - reference).double().norm())
    return apart / max(float(reference.double().norm()), torch.finfo(torch.float32).tiny)
