"""The ablation that DanceOPD's hard routes are compared with: every sample learns from all teachers at once.

The weighted mean of several fields may point to where no teacher would go (arXiv 2606.27377, section on
routing).
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from danceopd.flow import Condition, MixtureField, SigmaGrid, VelocityField
from danceopd.methods.base import Batch, Limits, Teachers, UpdateResult
from danceopd.methods.matching import match_velocity
from danceopd.methods.on_policy import queried_states
from danceopd.settings import Number, Text, nearest, settings


@settings
class Soft:
    """``|| v_student(sg(x_i)) - sum_m w_m v_m(sg(x_i)) ||^2`` at one state of the student's rollout."""

    name: ClassVar[str] = "soft"
    needs_teachers: ClassVar[bool] = True
    needs_targets: ClassVar[bool] = False
    rolls_out: ClassVar[bool] = True
    default_query: ClassVar[str | None] = "low"
    group_size: ClassVar[int] = 1
    other_teachers: ClassVar[tuple[str, ...]] = ()

    weights: dict[Text, Number] | None = Field(
        default=None,
        description="Weight of each teacher, by name, in the mixture; equal ones when not given.",
    )

    def num_states(self, num_steps: int) -> int:
        """1."""
        return 1

    def update(
        self, student: VelocityField, teachers: Teachers, batch: Batch, grid: SigmaGrid, limits: Limits
    ) -> UpdateResult:
        """See `danceopd.methods.Method`."""
        mixture = MixtureField(list(teachers.values()), self._weights(teachers))

        def target(rows: Tensor, sample: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
            return mixture(sample, sigma, condition)

        states = queried_states(student, batch, grid, limits)
        loss, error = match_velocity(student, target, batch, states.sample, states.sigma, limits)
        return UpdateResult(loss, error, states.sigma, states.forwards)

    def _weights(self, teachers: Teachers) -> list[float]:
        if self.weights is None:
            return [1.0 / len(teachers)] * len(teachers)
        for name in self.weights:
            if name not in teachers:
                raise ValueError(
                    f"method.weights names '{name}', which no route asks: {nearest(name, teachers)}"
                )
        return [self.weights.get(name, 0.0) for name in teachers]
