"""What is tried before the first update: that blocks compile, and how many samples a rollout has room for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Final

import torch

from danceopd.families import Family, Prepared
from danceopd.flow import VelocityField
from danceopd.methods import Limits, Method, Teachers
from danceopd.training.batch import PlannedBatch, build_batches
from danceopd.training.checkpoint import Checkpoint
from danceopd.training.config import TrainConfig
from danceopd.training.measuring import free_memory, peak_bytes
from danceopd.training.plan import Plan, SlotPlan

WIDTH: Final = "rollout_batch_size"
"""The key of the measured width in what checkpoints are made of."""
_SHARE: Final = 0.8  # of the free memory: allocators lose some, and prompts may be longer than those measured


@dataclass(frozen=True)
class Rehearsal:
    """Small batches of each route, the same ones at every start of a run and in every process.

    Args:
        family: of the models.
        prepared: the encoded rows of each route.
        teacher_of_route: position of each route's teacher.
        plan: of the run.
        config: of the run.
    """

    family: Family
    prepared: Sequence[Prepared]
    teacher_of_route: Sequence[int]
    plan: Plan
    config: TrainConfig

    def update(self, student: VelocityField, teachers: Teachers) -> None:
        """Small updates on every route, which leave gradients behind.

        Compiled code may differ in rounding by what it is first called with. These are the same calls
        whichever update comes next, so that a run that is continued compiles what it had before.
        """
        method: Method = self.config.method
        for route in range(len(self.prepared)):
            # One sample has versions of its own; any other number stands for all of them. Prompts of several
            # lengths, which a dropped one makes, may be masked, and those of one length not.
            for count, drop_last in ((1, False), (2, False), (2, True)):
                part = self._batch(route, count, drop_last=drop_last)
                limits = Limits(count, count, count, self.config.rollout_solver)
                method.update(student, teachers, part.batch, part.grid, limits)

    def width(self, student: VelocityField, kept: int, processes: int) -> int:
        """Samples of an update that a forward of its rollout has room for, 1 at least.

        The peak memory of forwards of one and of two samples, without gradient, on the largest latents of
        each route, gives what a sample takes; what is free now, less `kept`, holds so many.

        Args:
            student: the field that is rolled out.
            kept: bytes that will be taken for good when the first update is done, and are not yet.
            processes: that share the memory, if it is the CPU's.
        """
        device = self.family.device
        most = self.plan.slots_per_rank
        widths = []
        for route in range(len(self.prepared)):
            held = peak_bytes(partial(self._batch, route, 1), device)
            one, two = (self._peak(student, self._batch(route, count)) for count in (1, 2))
            free = free_memory(device) // (processes if device.type == "cpu" else 1)
            widths.append(width_that_fits(_SHARE * free - kept - most * held, one, two))
        return max(1, min(most, *widths))

    def _peak(self, student: VelocityField, part: PlannedBatch) -> int:
        noise = part.batch.noise
        sigma = part.grid.tensor(noise.device)[0].expand(len(noise))
        forward = partial(student, noise.float(), sigma, part.batch.condition)
        with torch.no_grad():
            forward()  # what libraries take once is no sample's
            return peak_bytes(forward, self.family.device)

    def _batch(self, route: int, count: int, *, drop_last: bool = False) -> PlannedBatch:
        """`count` samples of the row with the largest latent, queried at the first states of a rollout."""
        rows = self.prepared[route]
        row = max(range(len(rows)), key=lambda row: prod(rows.shape(row)))
        first = min(1, self.plan.num_steps - self.plan.num_states)
        states = tuple(range(first, first + self.plan.num_states))
        drops = [False] * (count - 1) + [drop_last]
        slots = [SlotPlan(route, row, seed, states, drop) for seed, drop in enumerate(drops)]
        (part,) = build_batches(
            slots,
            self.family,
            self.prepared,
            self.teacher_of_route,
            self.config.num_rollout_steps,
            needs_targets=self.config.method.needs_targets,
            unedited_weight=self.config.unedited_weight,
        )
        return part


def width_of(checkpoint: Checkpoint | None) -> int | None:
    """The width that a run was begun with, None where it was not measured."""
    width = checkpoint.made_of.get(WIDTH) if checkpoint is not None else None
    return width if isinstance(width, int) and width >= 1 else None


def width_that_fits(room: float, one: int, two: int) -> int:
    """How many samples fit into `room` bytes if one takes `one` and two take `two`: a line through both."""
    each = max(1, two - one)
    return int((room - max(0, one - each)) // each)
