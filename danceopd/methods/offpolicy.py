"""Distillation at noised data, without a rollout: what remains of DanceOPD off its own trajectories."""

from __future__ import annotations

from typing import ClassVar

from danceopd import ops
from danceopd.flow import SigmaGrid, VelocityField, upload
from danceopd.methods.base import Batch, Limits, Teachers, UpdateResult
from danceopd.methods.matching import match_velocity, routed
from danceopd.settings import settings


@settings
class OffPolicy:
    """``|| v_student(x) - v_m(x) ||^2`` at noised data, ``x = (1 - sigma) x0 + sigma eps``."""

    name: ClassVar[str] = "offpolicy"
    needs_teachers: ClassVar[bool] = True
    needs_targets: ClassVar[bool] = True
    rolls_out: ClassVar[bool] = False
    default_query: ClassVar[str | None] = "low"
    group_size: ClassVar[int] = 1
    other_teachers: ClassVar[tuple[str, ...]] = ()

    def num_states(self, num_steps: int) -> int:
        """1: the noise level is that of a state of the rollout that is not made."""
        return 1

    def update(
        self, student: VelocityField, teachers: Teachers, batch: Batch, grid: SigmaGrid, limits: Limits
    ) -> UpdateResult:
        """See `danceopd.methods.Method`."""
        assert batch.clean is not None
        sigma = upload(grid.tensor()[batch.states], batch.noise.device)
        sample = ops.add_noise(batch.clean, batch.noise.float(), sigma[:, 0])
        loss, error = match_velocity(student, routed(teachers, batch), batch, sample[:, None], sigma, limits)
        return UpdateResult(loss, error, sigma, forwards=0)
