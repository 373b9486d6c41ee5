"""The ablation that DanceOPD's hard routes are compared with: every sample learns from all teachers at once.

The weighted mean of several fields may point to where no teacher would go (arXiv 2606.27377, section on
routing).
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from pydantic import Field, model_validator
from torch import Tensor

from danceopd.flow import (
    Condition,
    MixtureField,
    SigmaGrid,
    VelocityField,
    route_probabilities,
    velocity_of,
)
from danceopd.methods.base import Batch, Limits, Teachers, UpdateResult
from danceopd.methods.matching import match_velocity
from danceopd.methods.on_policy import queried_states
from danceopd.settings import Number, Text, settings


@settings
class Soft:
    """``|| v_student(sg(x_i)) - sum_m w_m v_m(sg(x_i)) ||^2`` at one state of the student's rollout."""

    name: ClassVar[str] = "soft"
    needs_teachers: ClassVar[bool] = True
    needs_targets: ClassVar[bool] = False
    rolls_out: ClassVar[bool] = True
    default_query: ClassVar[str | None] = "low"
    group_size: ClassVar[int] = 1

    weights: dict[Text, Number] | None = Field(
        default=None,
        min_length=1,
        description="Weight of each teacher in the mixture, by name and relative to the others' (0 for those "
        "not named); equal ones when not given.",
    )

    @model_validator(mode="after")
    def _a_mean(self) -> Soft:
        weights = [1.0] if self.weights is None else list(self.weights.values())
        if min(weights) < 0.0 or not any(weights):
            raise ValueError(f"weights must be 0 or above and not all 0, but got {weights}: 1.0 is usual.")
        return self

    @property
    def other_teachers(self) -> tuple[str, ...]:
        """Those that have a weight, also where no route asks them."""
        return tuple(self.weights or ())

    def num_states(self, num_steps: int) -> int:
        """1."""
        return 1

    def update(
        self, student: VelocityField, teachers: Teachers, batch: Batch, grid: SigmaGrid, limits: Limits
    ) -> UpdateResult:
        """See `danceopd.methods.Method`."""
        named = [partial(velocity_of, field, f"teacher '{name}'") for name, field in teachers.items()]
        mixture = MixtureField(named, self._weights(teachers))

        def target(rows: Tensor, sample: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
            return mixture(sample, sigma, condition)

        states = queried_states(student, batch, grid, limits)
        loss, error = match_velocity(student, target, batch, states.sample, states.sigma, limits)
        return UpdateResult(loss, error, states.sigma, states.forwards)

    def _weights(self, teachers: Teachers) -> list[float]:
        weights = dict.fromkeys(teachers, 1.0) if self.weights is None else self.weights
        return list(route_probabilities([weights.get(name, 0.0) for name in teachers]))
