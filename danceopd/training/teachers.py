"""The fields that a run's teachers are, and what its folder says of those that are Python code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from torch import nn

from danceopd.families import Family, Teacher
from danceopd.families.base import field_of
from danceopd.flow import VelocityField, models_of
from danceopd.settings import ConfigError

ASSIGNED: Final = "assigned to trainer.teachers, contents unknown"
"""Identity of a field that nobody has given one."""


class Fields:
    """The teachers that are asked, and the fields that were made of them.

    Args:
        family: makes them.
        asked: the teachers.

    Raises:
        ConfigError: a teacher is a field of Python code that is not given.
        ValueError: from the family, for a teacher that it does not know.
    """

    def __init__(self, family: Family, asked: Sequence[Teacher]) -> None:
        self._asked = list(asked)
        self.made = tuple(field_of(family, teacher) for teacher in asked)

    def described(self, fields: Sequence[VelocityField]) -> list[Teacher]:
        """The teachers whose fields `fields` are; one that was not made here is a field of Python code.

        Raises:
            ConfigError: there are more or fewer of them, or one cannot be asked for velocities.
        """
        if len(fields) != len(self.made):
            raise ConfigError(
                f"trainer.teachers holds {len(fields)} fields for {len(self.made)} teachers that are asked: "
                "keep one for each of trainer.asked, in that order."
            )
        teachers = []
        for teacher, made, field in zip(self._asked, self.made, fields, strict=True):
            if field is not made:
                teacher = Teacher(teacher.name, field=field, identity=ASSIGNED)
            _check_frozen(teacher, field)
            teachers.append(teacher)
        return teachers


def _check_frozen(teacher: Teacher, field: VelocityField) -> None:
    if teacher.identity is None:
        return
    for model in (field, *models_of(field)):
        if isinstance(model, nn.Module) and model.training:
            raise ConfigError(
                f"the {type(model).__name__} of teacher '{teacher.name}' is in training mode, in which "
                "dropout and batch statistics change what it teaches: call its .eval() first."
            )
