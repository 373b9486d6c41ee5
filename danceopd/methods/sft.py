"""Flow matching on data: how experts are made, and, on the data of all routes at once, joint training."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from danceopd import ops
from danceopd.flow import Condition, SigmaGrid, VelocityField, upload
from danceopd.methods.base import Batch, Limits, Teachers, UpdateResult
from danceopd.methods.matching import match_velocity
from danceopd.settings import settings


@settings
class SFT:
    """``|| v_student(x) - (eps - x0) ||^2`` at noised data, ``x = (1 - sigma) x0 + sigma eps``.

    Noise levels are spread between the levels of the grid, so that they have the family's shift.
    """

    name: ClassVar[str] = "sft"
    needs_teachers: ClassVar[bool] = False
    needs_targets: ClassVar[bool] = True
    rolls_out: ClassVar[bool] = False
    default_query: ClassVar[str | None] = "uniform"
    group_size: ClassVar[int] = 1
    other_teachers: ClassVar[tuple[str, ...]] = ()

    def num_states(self, num_steps: int) -> int:
        """1."""
        return 1

    def update(
        self, student: VelocityField, teachers: Teachers, batch: Batch, grid: SigmaGrid, limits: Limits
    ) -> UpdateResult:
        """See `danceopd.methods.Method`."""
        assert batch.clean is not None and batch.offset is not None
        levels, offset = grid.tensor(), batch.offset[:, None]
        here, there = levels[batch.states], levels[batch.states + 1]
        sigma = upload(here + offset * (there - here), batch.noise.device)
        noise = batch.noise.float()
        velocity = noise - batch.clean

        def target(rows: Tensor, sample: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
            return velocity[upload(rows, velocity.device)]

        sample = ops.add_noise(batch.clean, noise, sigma[:, 0])
        loss, error = match_velocity(student, target, batch, sample[:, None], sigma, limits)
        return UpdateResult(loss, error, sigma, forwards=0)
