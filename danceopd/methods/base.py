"""What a method is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, NamedTuple, Protocol

from torch import Tensor

from danceopd.flow import Condition, SigmaGrid, Solver, VelocityField

Teachers = Mapping[str, VelocityField]
"""The frozen fields of a run by their names, in the order that routes count them."""


class Batch(NamedTuple):
    """What one update works on.

    Attributes:
        noise: [S, ...], where each trajectory starts.
        condition: S samples, each drawn from the data of its own route.
        route: int64 [S] on the CPU, position of each sample's teacher.
        states: int64 [S, K] on the CPU, rising, the states to query, in 0 .. N - 1.
        seed: int64 [S], of the noise that a stochastic rollout adds on its way.
        offset: fp32 [S] in [0, 1), where between its state and the next a sample's noise level lies, for
            methods without a grid.
        clean: [S, ...], what the data says should come out; None unless the method needs it.
        mask: fp32, broadcastable to [S, ...], weights of the elements in the loss; None for 1 everywhere.
    """

    noise: Tensor
    condition: Condition
    route: Tensor
    states: Tensor
    seed: Tensor | None = None
    offset: Tensor | None = None
    clean: Tensor | None = None
    mask: Tensor | None = None


class Limits(NamedTuple):
    """How an update is cut into passes: memory and speed change, and the gradient does not.

    Attributes:
        micro_batch_size: queried states per forward and backward of the student at most, None for all.
        rollout_batch_size: samples per forward of the rollout at most, None for all.
        samples_per_update: what the mean loss is a mean over, where a batch is only a part of the update.
        solver: of the rollout; this one does change where it leads.
    """

    micro_batch_size: int | None = None
    rollout_batch_size: int | None = None
    samples_per_update: int | None = None
    solver: Solver = "euler"


class UpdateResult(NamedTuple):
    """What one update saw.

    Attributes:
        loss: fp32 [S], each sample's own; their mean is the loss of the update.
        error: fp32 [S, K], the mean squared velocity error at each queried state, under the batch's mask but
            without the weights of states.
        sigma: fp32 [S, K], the noise levels queried.
        forwards: evaluations of the student in the rollout, counted in samples.
    """

    loss: Tensor
    error: Tensor
    sigma: Tensor
    forwards: int


class Method(Protocol):
    """A way to train one student: what an update is. Its settings are the fields of its class."""

    name: ClassVar[str]
    """What configs call it."""
    needs_teachers: ClassVar[bool]
    """Whether the routes' teachers are asked; without, only data is learned from."""
    needs_targets: ClassVar[bool]
    """Whether rows must say what should come out of them."""
    rolls_out: ClassVar[bool]
    """Whether the student's own trajectories are followed."""
    default_query: ClassVar[str | None]
    """The law of the queried state where a config gives none; None where there is no choice."""

    @property
    def group_size(self) -> int | None:
        """Samples in a row that share prompt and route, and differ in their noise; None until a run says."""
        ...

    @property
    def other_teachers(self) -> tuple[str, ...]:
        """Names of teachers that it asks beside those of the routes."""
        ...

    def num_states(self, num_steps: int) -> int:
        """K, the states to query of a rollout of `num_steps` steps."""
        ...

    def update(
        self, student: VelocityField, teachers: Teachers, batch: Batch, grid: SigmaGrid, limits: Limits
    ) -> UpdateResult:
        """Add the gradient of one update's mean loss to the student; stepping is left to the caller."""
        ...
