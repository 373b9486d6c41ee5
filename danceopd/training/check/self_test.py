"""Whether the conventions hold together: laws that any field keeps, and measures that trained fields keep."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from danceopd.families.base import field_of
from danceopd.flow import VelocityField
from danceopd.methods import DanceOPD, Limits
from danceopd.settings import ConfigError
from danceopd.training.check.behaviour import RouteProbe, behaviour_of
from danceopd.training.check.fields import base_field, distance, first_velocity
from danceopd.training.check.probe import Probe
from danceopd.training.check.report import Behaviour, SelfTest
from danceopd.training.trainer import DanceOPDTrainer

_ROUNDING: Final = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
"""What batches of other sizes may change, since other kernels compute them: of GPUs, TF32 included."""


@dataclass(frozen=True)
class AsStudent:
    """A frozen field in the student's place: it takes a gradient and keeps none."""

    field: VelocityField

    def __call__(self, sample: Tensor, sigma: Tensor, condition: Any) -> Tensor:
        """The field's own velocity, as a leaf."""
        return self.field(sample, sigma, condition).detach().requires_grad_()


def run_self_test(trainer: DanceOPDTrainer, probe: Probe) -> SelfTest:
    """Put each teacher into the student's place and update, and measure how its field behaves.

    Raises:
        ConfigError: the loss is not exactly 0, a student that starts as the base is not the base, rows alone
            are not those of a batch, guidance at scale 1 is not the conditional velocity, or a velocity is
            not finite. What only weights that are not trained may break is left to the report's warnings.
    """
    losses = {teacher.name: _loss_of(index, trainer, probe) for index, teacher in enumerate(trainer.asked)}
    for name, loss in losses.items():
        if loss != 0.0:
            raise ConfigError(
                f"a student that is teacher '{name}' has loss {loss:.3g} where it must be 0: that field "
                "answers the same question differently each time; look for dropout, or for weights that "
                "change between calls."
            )
    start = _starts_as_base(trainer, probe)
    fields = {}
    for index, teacher in enumerate(trainer.asked):
        plain = field_of(trainer.family, dataclasses.replace(teacher, guidance_scale=1.0))
        routes = _routes_of(index, trainer)
        fields[teacher.name] = _behaviour_of(f"teacher '{teacher.name}'", plain, routes, trainer, probe)
    if not trainer.asked:
        routes = list(range(len(probe.rows)))
        fields["student"] = _behaviour_of("the student", trainer.student.field, routes, trainer, probe)
    return SelfTest(losses, start, fields)


def _behaviour_of(
    who: str, field: VelocityField, routes: Sequence[int], trainer: DanceOPDTrainer, probe: Probe
) -> Behaviour:
    tried = [
        RouteProbe(batch, probe.rows[route])
        for route in routes
        for batch in probe.batches(probe.slots(route), trainer.teacher_of_route)
    ]
    found = behaviour_of(trainer.family, field, tried, probe.seed)
    rounding = _ROUNDING[next(trainer.student.module.parameters()).dtype]
    if not all(map(math.isfinite, (found.noise_share, *found.misses.values()))):
        raise ConfigError(
            f"{who} returns velocities that are not finite on its way to an image: "
            "restore its weights, or use dtype bfloat16 or float32 as it was trained."
        )
    if not found.alone <= rounding:
        raise ConfigError(
            f"{who} answers two rows otherwise than each alone (by {found.alone:.2g}, and "
            f"{rounding:g} is rounding): the family must give each row its own prompt, source and sigma."
        )
    if found.guidance is not None and not found.guidance <= rounding:
        raise ConfigError(
            f"guidance at scale 1 is {found.guidance:.2g} (relative) away from the velocity of {who} "
            "without guidance: the family must count its scale so that 1 is none."
        )
    return found


def _routes_of(index: int, trainer: DanceOPDTrainer) -> list[int]:
    return [route for route, teacher in enumerate(trainer.teacher_of_route) if teacher == index]


def _loss_of(index: int, trainer: DanceOPDTrainer, probe: Probe) -> float:
    """The largest loss of a teacher in the student's place.

    In DanceOPD's update also where the run has another method: all that have teachers compare velocities of
    both fields at the same inputs, so what breaks this law for one breaks it for all; that of soft, whose
    mixture is no teacher's field, could not tell.
    """
    slots = [slot for route in _routes_of(index, trainer) for slot in probe.slots(route)]
    teachers = {teacher.name: field for teacher, field in zip(trainer.asked, trainer.teachers, strict=True)}
    losses = [
        DanceOPD()
        .update(
            AsStudent(trainer.teachers[index]),
            teachers,
            part.batch,
            part.grid,
            Limits(trainer.config.batch_size, trainer.rollout_batch_size),
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
