"""On-policy generative field distillation (DanceOPD, arXiv 2606.27377).

One update: every sample follows one route, the current student rolls out from noise to one queried state, and
the student's velocity there is matched to that of the route's teacher. Gradient flows through that one
velocity only.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from danceopd.flow import SigmaGrid, VelocityField
from danceopd.methods.base import Batch, Limits, Teachers, UpdateResult
from danceopd.methods.matching import match_velocity, routed
from danceopd.methods.on_policy import queried_states
from danceopd.settings import Integer, settings

Weighting = Literal["none", "sigma", "kl"]


@settings
class DanceOPD:
    """``mean over samples and states of w_k || v_student(sg(x_k)) - v_m(sg(x_k)) ||^2``; K = 1, w = 1.

    K states of a rollout are drawn from the query law without repeats.
    """

    name: ClassVar[str] = "danceopd"
    needs_teachers: ClassVar[bool] = True
    needs_targets: ClassVar[bool] = False
    rolls_out: ClassVar[bool] = True
    default_query: ClassVar[str | None] = "low"
    group_size: ClassVar[int] = 1
    other_teachers: ClassVar[tuple[str, ...]] = ()

    states: Integer = Field(default=1, ge=1, le=1000, description="K, states queried of each rollout.")
    weighting: Weighting = Field(
        default="none",
        description="Weight of a state in the loss: none (the paper's), its sigma, or kl: half the square of "
        "its step, with a mean of 1 over the grid.",
    )

    def num_states(self, num_steps: int) -> int:
        """`states`."""
        return self.states

    def update(
        self, student: VelocityField, teachers: Teachers, batch: Batch, grid: SigmaGrid, limits: Limits
    ) -> UpdateResult:
        """See `danceopd.methods.Method`."""
        states = queried_states(student, batch, grid, limits)
        weight = self._weights(grid)[batch.states] / batch.states.shape[1]
        loss, error = match_velocity(
            student,
            routed(teachers, batch),
            batch,
            states.sample,
            states.sigma,
            limits,
            weight=None if self.weighting == "none" else weight,
        )
        return UpdateResult(loss, error, states.sigma, states.forwards)

    def _weights(self, grid: SigmaGrid) -> Tensor:
        """fp32 [N]."""
        levels = grid.tensor()
        if self.weighting == "none":
            return torch.ones(grid.num_steps)
        if self.weighting == "sigma":
            return levels[:-1]
        steps = levels.diff().square()
        return steps / steps.mean()
