"""Policy-gradient distillation of a stochastic rollout (Flow-OPD, arXiv 2605.08043).

The student's steps are drawn from Gaussians; how near a teacher's step would have come, as a divergence, is
the reward of the step, and PPO's clipped ratio raises the probability of the better ones.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar, Final

import torch
from pydantic import Field, model_validator
from torch import Tensor

from danceopd import ops
from danceopd.flow import (
    SigmaGrid,
    Trajectory,
    VelocityField,
    routed_velocity,
    stochastic_rollout,
    upload,
    velocity_of,
)
from danceopd.methods.base import Batch, Limits, Teachers, UpdateResult
from danceopd.methods.matching import micro_batches, names_of
from danceopd.settings import Integer, Number, Text, settings

_GROUP_SIZE: Final = 16


@settings
class FlowOPD:
    """``mean max(-A r, -A clamp(r, 1 - c, 1 + c)) + anchor_weight * KL(student || anchor)`` over all steps.

    A = -KL(student || teacher) of a step, bounded; r is the ratio of the step's probability under the student
    that learns to that under the student that took it.

    This A is known before the step is drawn, so the expectation of its gradient, A times the score, is zero:
    what a run does without an anchor comes from the scatter of the estimate, and wants small learning rates.
    """

    name: ClassVar[str] = "flowopd"
    needs_teachers: ClassVar[bool] = True
    needs_targets: ClassVar[bool] = False
    rolls_out: ClassVar[bool] = True
    default_query: ClassVar[str | None] = None

    group_size: Integer | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="Rollouts of each prompt; when not given 16, or what divides both 16 and the samples of "
        "an update.",
    )
    noise_level: Number = Field(default=0.7, gt=0.0, le=10.0, description="Eta, the noise of a step.")
    clip_range: Number = Field(
        default=1e-4,
        gt=0.0,
        lt=1.0,
        description="Beyond this distance of the ratio from 1 nothing is learned.",
    )
    advantage_clip: Number = Field(default=5.0, gt=0.0, description="Bound of a step's advantage.")
    anchor: Text | None = Field(
        default=None, description="Name of a teacher that the student shall stay near everywhere."
    )
    anchor_weight: Number | None = Field(
        default=None, gt=0.0, description="Weight of the divergence from the anchor; 0.01 when not given."
    )

    @model_validator(mode="after")
    def _an_anchor_has_the_weight(self) -> FlowOPD:
        if self.anchor is None and self.anchor_weight is not None:
            raise ValueError(f"anchor_weight={self.anchor_weight} has no anchor to weigh: name one.")
        return self

    def grouped(self, samples: int) -> FlowOPD:
        """The same with its `group_size` settled for updates of `samples` samples in a process."""
        if self.group_size is not None:
            return self
        return replace(self, group_size=math.gcd(_GROUP_SIZE, samples))

    @property
    def other_teachers(self) -> tuple[str, ...]:
        """The anchor."""
        return () if self.anchor is None else (self.anchor,)

    def num_states(self, num_steps: int) -> int:
        """All: `num_steps`."""
        return num_steps

    def update(
        self, student: VelocityField, teachers: Teachers, batch: Batch, grid: SigmaGrid, limits: Limits
    ) -> UpdateResult:
        """See `danceopd.methods.Method`; the loss that is logged is the mean divergence from the teachers."""
        assert batch.seed is not None
        path = stochastic_rollout(
            student,
            batch.noise,
            grid,
            batch.condition,
            batch.seed,
            noise_level=self.noise_level,
            batch_size=limits.rollout_batch_size,
        )
        count, steps = path.log_prob.shape
        divergence = torch.empty(count * steps, device=batch.noise.device)
        error = torch.empty_like(divergence)
        for places in micro_batches(batch.route.repeat_interleave(steps), limits.micro_batch_size):
            share = len(places) / (steps * (limits.samples_per_update or count))
            there = upload(places, divergence.device)
            divergence[there], error[there] = self._learn(student, teachers, batch, path, grid, places, share)
        divergence, error = divergence.view(count, steps), error.view(count, steps)
        sigma = grid.tensor(batch.noise.device)[:-1].expand(count, steps)
        return UpdateResult(divergence.mean(dim=1), error, sigma, forwards=count * steps)

    def _learn(
        self,
        student: VelocityField,
        teachers: Teachers,
        batch: Batch,
        path: Trajectory,
        grid: SigmaGrid,
        places: Tensor,
        share: float,
    ) -> tuple[Tensor, Tensor]:
        """Backward of `share` times the mean loss of some steps; their divergence and velocity error."""
        steps = path.log_prob.shape[1]
        rows = places // steps
        condition = batch.condition.take(rows)
        # The steps of all samples as one axis; a sample has one state more than it has steps.
        step_at = upload(places, path.sample.device)
        state_at = upload(places + rows, path.sample.device)
        samples, states = path.sample.flatten(0, 1), upload(places % steps, path.sample.device)
        sample, reached = samples[state_at], samples[state_at + 1]
        levels = grid.tensor(sample.device)
        here, there = levels[states], levels[states + 1]

        def taken(velocity: Tensor) -> ops.SDEStep:
            return ops.sde_step(
                sample, velocity, here, there, noise_level=self.noise_level, next_sample=reached
            )

        with torch.no_grad():
            fields, names = list(teachers.values()), names_of(teachers)
            wanted = routed_velocity(fields, batch.route[rows], sample, here, condition, names=names)
            goal = taken(wanted).mean
        velocity = student(sample, here, condition)
        step = taken(velocity)
        divergence = ops.transition_kl(step.mean.detach(), goal, step.std.detach())
        loss = ops.policy_loss(
            step.log_prob,
            path.log_prob.flatten()[step_at],
            -divergence,
            clip_range=self.clip_range,
            advantage_clip=self.advantage_clip,
        )
        if self.anchor is not None:
            weight = 0.01 if self.anchor_weight is None else self.anchor_weight
            with torch.no_grad():
                anchor = teachers[self.anchor], f"teacher '{self.anchor}'"
                held = taken(velocity_of(*anchor, sample, here, condition)).mean
            loss = loss + weight * ops.transition_kl(step.mean, held, step.std.detach()).mean()
        (share * loss).backward()
        error = (velocity.detach().float() - wanted.float()).square().flatten(1).mean(dim=1)
        return divergence, error
