"""Whether the conventions hold together: a student that is its teacher has nothing to learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from danceopd.flow import VelocityField
from danceopd.methods import DanceOPD, Limits
from danceopd.settings import ConfigError
from danceopd.training.check.fields import base_field, distance, first_velocity
from danceopd.training.check.probe import Probe
from danceopd.training.check.report import SelfTest
from danceopd.training.trainer import DanceOPDTrainer


@dataclass(frozen=True)
class AsStudent:
    """A frozen field in the student's place: it takes a gradient and keeps none."""

    field: VelocityField

    def __call__(self, sample: Tensor, sigma: Tensor, condition: Any) -> Tensor:
        """The field's own velocity, as a leaf."""
        return self.field(sample, sigma, condition).detach().requires_grad_()


def run_self_test(trainer: DanceOPDTrainer, probe: Probe) -> SelfTest:
    """Put each teacher into the student's place, on rows of its own routes, and update.

    Raises:
        ConfigError: its loss is not exactly 0, or a student that starts as the base is not the base.
    """
    losses = {teacher.name: _loss_of(index, trainer, probe) for index, teacher in enumerate(trainer.asked)}
    for name, loss in losses.items():
        if loss != 0.0:
            raise ConfigError(
                f"a student that is teacher '{name}' has loss {loss:.3g} where it must be 0: that field "
                "answers the same question differently each time; look for dropout, or for weights that "
                "change between calls."
            )
    return SelfTest(losses, _starts_as_base(trainer, probe))


def _loss_of(index: int, trainer: DanceOPDTrainer, probe: Probe) -> float:
    routes = [route for route, teacher in enumerate(trainer.teacher_of_route) if teacher == index]
    slots = [slot for route in routes for slot in probe.slots(route)]
    teachers = {teacher.name: field for teacher, field in zip(trainer.asked, trainer.teachers, strict=True)}
    losses = [
        DanceOPD()
        .update(
            AsStudent(trainer.teachers[index]),
            teachers,
            part.batch,
            part.grid,
            Limits(trainer.config.batch_size, trainer.config.rollout_batch_size),
        )
        .loss
        for part in probe.batches(slots, trainer.teacher_of_route)
    ]
    return float(torch.cat(losses).max())


def _starts_as_base(trainer: DanceOPDTrainer, probe: Probe) -> bool | None:
    config = trainer.config.student
    base = base_field(trainer, config.guidance_vector)
    if config.init != "base" or base is None:
        return None
    for route in range(len(probe.rows)):
        for batch in probe.batches(probe.slots(route), trainer.teacher_of_route):
            apart = distance(first_velocity(trainer.student.field, batch), first_velocity(base, batch))
            if apart > 0.0:
                raise ConfigError(
                    f"the student starts {apart:.3g} (relative) away from the base although student.init is "
                    "'base': the family must add its LoRA with a product of 0, in the base's precision."
                )
    return True
