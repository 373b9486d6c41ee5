"""The states that the current student itself comes by."""

from __future__ import annotations

from danceopd.flow import Rollout, SigmaGrid, VelocityField, rollout
from danceopd.methods.base import Batch, Limits


def queried_states(student: VelocityField, batch: Batch, grid: SigmaGrid, limits: Limits) -> Rollout:
    """The states [S, K, ...] that `batch.states` asks for, of the student's rollout from `batch.noise`.

    Raises:
        ValueError: a state has no velocity to match.
    """
    if int(batch.states.max()) >= grid.num_steps:
        raise ValueError(
            f"states must lie in 0 .. {grid.num_steps - 1}, but got {int(batch.states.max())}; the clean "
            "state has no velocity to match."
        )
    return rollout(
        student,
        batch.noise,
        grid,
        batch.condition,
        stop=batch.states,
        batch_size=limits.rollout_batch_size,
        solver=limits.solver,
    )
