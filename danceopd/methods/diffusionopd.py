"""Dense on-policy distillation of every step of the student's rollout (DiffusionOPD, arXiv 2605.15055).

Teacher and student step from the same state to two Gaussians of one covariance, whose divergence is closed:
half the squared step times the squared difference of their velocities. It is summed over all steps.
"""

from __future__ import annotations

from typing import ClassVar

from danceopd.flow import SigmaGrid, VelocityField
from danceopd.methods.base import Batch, Limits, Teachers, UpdateResult
from danceopd.methods.matching import match_velocity, routed
from danceopd.methods.on_policy import queried_states
from danceopd.settings import settings


@settings
class DiffusionOPD:
    """``sum_k (d sigma_k)^2 / 2 * || v_student(sg(x_k)) - v_m(sg(x_k)) ||^2`` over all N states."""

    name: ClassVar[str] = "diffusionopd"
    needs_teachers: ClassVar[bool] = True
    needs_targets: ClassVar[bool] = False
    rolls_out: ClassVar[bool] = True
    default_query: ClassVar[str | None] = None
    group_size: ClassVar[int] = 1
    other_teachers: ClassVar[tuple[str, ...]] = ()

    def num_states(self, num_steps: int) -> int:
        """All: `num_steps`."""
        return num_steps

    def update(
        self, student: VelocityField, teachers: Teachers, batch: Batch, grid: SigmaGrid, limits: Limits
    ) -> UpdateResult:
        """See `danceopd.methods.Method`."""
        states = queried_states(student, batch, grid, limits)
        weight = grid.tensor().diff().square()[batch.states] / 2.0
        loss, error = match_velocity(
            student, routed(teachers, batch), batch, states.sample, states.sigma, limits, weight=weight
        )
        return UpdateResult(loss, error, states.sigma, states.forwards)
