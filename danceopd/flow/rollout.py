"""From noise down to the states that are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor

from danceopd import ops
from danceopd.flow.conditions import Condition
from danceopd.flow.fields import GuidedField, VelocityField, velocity_of
from danceopd.flow.forwards import Forward, plan_forwards
from danceopd.flow.sigmas import SigmaGrid
from danceopd.flow.transfer import upload

Solver = Literal["euler", "ab2"]
"""Euler's step, or Adams and Bashforth's of second order, which remembers the velocity before."""

_NAME: Final = "the field of the rollout"  # in messages


class Rollout(NamedTuple):
    """States that a rollout passed or ended in.

    Attributes:
        sample: fp32 [B, ...]; [B, K, ...] where K states were asked for.
        sigma: fp32 [B] or [B, K], the noise level of each.
        forwards: evaluations of the field, counted in samples; the sum of the last states asked for.
    """

    sample: Tensor
    sigma: Tensor
    forwards: int


@torch.no_grad()
def rollout(
    field: VelocityField,
    noise: Tensor,
    grid: SigmaGrid,
    condition: Condition,
    *,
    stop: Tensor | Sequence[int] | Sequence[Sequence[int]] | None = None,
    batch_size: int | None = None,
    solver: Solver = "euler",
) -> Rollout:
    """Steps from `noise` along `grid`, each sample until its own state; no gradient is recorded.

    Samples move in place: a field that keeps what it was called with keeps a copy. They stay in fp32 whatever
    the field's dtype. A sample that has reached its state leaves, and with a `batch_size` the next one takes
    its slot at once (`plan_forwards`): a batch costs ``stop.sum()`` evaluations instead of ``B * N``, in
    forwards that stay wide. A single sample stops on exactly the bits that the full rollout passes through;
    in a batch the two agree to the rounding of the field in batches of other sizes.

    Args:
        field: the field to follow; a `GuidedField`'s guidance is folded into Euler's step.
        noise: [B, ...], state 0.
        grid: N + 1 noise levels.
        condition: B samples.
        stop: int64 [B] (or a list), the state of each sample in 0 .. N, 0 being the noise itself; or [B, K],
            several states of each, rising; None means N.
        batch_size: samples per evaluation at most; None means all.
        solver: 'euler', or 'ab2' (see `danceopd.ops.ab2_step`), whose first step is Euler's.
    """
    batch = noise.shape[0]
    if not isinstance(grid, SigmaGrid):
        raise TypeError(
            f"grid must be a SigmaGrid, but got {type(grid).__name__}; wrap its noise levels in "
            "SigmaGrid((1.0, ..., 0.0)), or take SigmaGrid.uniform(num_steps)."
        )
    stop = torch.full((batch,), grid.num_steps) if stop is None else torch.as_tensor(stop).cpu()
    _check(noise, grid, condition, stop, batch_size, solver)
    states = stop.view(batch, -1)

    # Latest stop first: long trajectories shall not be the ones that are left over. Without a limit on the
    # batch, the samples that still move are then the first ones at every step, and none is ever copied.
    order = torch.argsort(states[:, -1], descending=True, stable=True)
    states = states[order]
    forwards = plan_forwards(states[:, -1].tolist(), batch_size or batch)
    sample = noise.float()[upload(order, noise.device)]
    passed = _descend(field, sample, grid, condition.take(order), forwards, solver, states[:, :-1])
    back = upload(torch.argsort(order), noise.device)
    reached = torch.cat([passed, sample[:, None]], dim=1)[back]
    sigma = upload(grid.tensor()[stop], noise.device)
    return Rollout(reached.reshape(*stop.shape, *noise.shape[1:]), sigma, forwards=int(states[:, -1].sum()))


def rows_not_finite(sample: Tensor) -> list[int]:
    """Positions of the samples, [B, ...], that hold a NaN or an infinity; waits for the device."""
    spoilt = ~sample.flatten(1).isfinite().all(dim=1)
    return [int(row) for row in spoilt.nonzero().flatten().tolist()]


def _descend(
    field: VelocityField,
    sample: Tensor,
    grid: SigmaGrid,
    condition: Condition,
    forwards: list[Forward],
    solver: Solver,
    wanted: Tensor,
) -> Tensor:
    """Bring every row of `sample` to where its forwards end, in place; returns [B, K, ...], the rows at the
    states `wanted`, int64 [B, K] on the CPU, that they pass on their way.
    """
    levels = Levels(grid, forwards, sample.device)
    passed = sample.new_empty(*wanted.shape, *sample.shape[1:])
    places = {(row, s): place for row, of in enumerate(wanted.tolist()) for place, s in enumerate(of)}
    steps = Euler(field) if solver == "euler" else AdamsBashforth(field, grid)
    held: tuple[int, ...] = ()
    moving = sample[:0]
    for index, (rows, states) in enumerate(forwards):
        if rows != held:
            _put(sample, held, moving)
            moving, held = _get(sample, rows), rows
            taken = condition.take(torch.tensor(rows))
            steps.take(rows)
        for slot, at in enumerate(zip(rows, states, strict=True)):
            if at in places:
                passed[at[0], places[at]] = moving[slot]
        steps.step(moving, *levels.of(index), taken, states)
    _put(sample, held, moving)
    return passed


class Levels:
    """The noise levels of every forward, brought to the device once.

    Args:
        grid: N + 1 noise levels.
        forwards: whose samples are at which states.
        device: where the field computes.
    """

    def __init__(self, grid: SigmaGrid, forwards: list[Forward], device: torch.device) -> None:
        self._values = grid.values
        self._forwards = forwards
        self._ends = list(accumulate((len(forward.rows) for forward in forwards), initial=0))
        states = torch.tensor([state for forward in forwards for state in forward.states], dtype=torch.int64)
        levels = grid.tensor()
        self._here, self._there = upload(levels[states], device), upload(levels[states + 1], device)

    def of(self, index: int) -> tuple[Tensor, float | Tensor, float | Tensor]:
        """For the field fp32 [A], and for the step: one number where all samples are at the same state."""
        states = self._forwards[index].states
        part = slice(self._ends[index], self._ends[index + 1])
        if all(state == states[0] for state in states):
            return self._here[part], self._values[states[0]], self._values[states[0] + 1]
        return self._here[part], self._here[part], self._there[part]


class Euler:
    """``x' = x + (sigma' - sigma) v``.

    Args:
        field: gives v.
    """

    def __init__(self, field: VelocityField) -> None:
        self._field = field

    def take(self, rows: tuple[int, ...]) -> None:
        """The samples of the next forwards; nothing is remembered of them."""

    def step(
        self,
        sample: Tensor,
        sigma: Tensor,
        here: float | Tensor,
        there: float | Tensor,
        condition: Condition,
        states: tuple[int, ...],
    ) -> None:
        """Move `sample` [A, ...], in place, from `here` to `there`."""
        field = self._field
        if isinstance(field, GuidedField) and field.is_linear and field.scale != 1.0:
            velocity, uncond = field.branches(sample, sigma, condition)
            ops.euler_step(
                sample, velocity, here, there, uncond=uncond, guidance_scale=field.scale, out=sample
            )
        else:
            velocity = velocity_of(field, _NAME, sample, sigma, condition)
            ops.euler_step(sample, _apart(velocity, sample), here, there, out=sample)


class AdamsBashforth:
    """Second order over uneven steps: Euler's step with ``v + r (v - v_previous)``, r = d / (2 d_previous).

    Args:
        field: gives v.
        grid: N + 1 noise levels.
    """

    def __init__(self, field: VelocityField, grid: SigmaGrid) -> None:
        self._field = field
        steps = [there - here for here, there in pairwise(grid.values)]
        # A first step has none before it, and with r = 0 it is Euler's.
        self._ratios = [0.0] + [now / (2.0 * before) for before, now in pairwise(steps)]
        self._previous: dict[int, Tensor] = {}
        self._rows: tuple[int, ...] = ()

    def take(self, rows: tuple[int, ...]) -> None:
        """The samples of the next forwards; what is remembered of others is dropped."""
        self._previous = {row: self._previous[row] for row in rows if row in self._previous}
        self._rows = rows

    def step(
        self,
        sample: Tensor,
        sigma: Tensor,
        here: float | Tensor,
        there: float | Tensor,
        condition: Condition,
        states: tuple[int, ...],
    ) -> None:
        """Move `sample` [A, ...], in place, from `here` to `there`."""
        # A field may give its sample, or the same memory every time: what is remembered is a copy.
        velocity = velocity_of(self._field, _NAME, sample, sigma, condition).clone()
        pairs = zip(self._rows, velocity, strict=True)
        previous = torch.stack([self._previous.get(row, now) for row, now in pairs])
        ratios = [self._ratios[state] for state in states]
        scale: float | Tensor = 1.0 + ratios[0]
        if any(ratio != ratios[0] for ratio in ratios):
            scale = upload(torch.tensor([1.0 + ratio for ratio in ratios]), sample.device)
        # Past and present are blended as guidance blends its branches, within the pass of the step.
        ops.euler_step(sample, velocity, here, there, uncond=previous, guidance_scale=scale, out=sample)
        self._previous = dict(zip(self._rows, velocity, strict=True))


def _apart(velocity: Tensor, sample: Tensor) -> Tensor:
    """The velocity in memory of its own where it is a view of the sample, over which the step is written."""
    shared = velocity.untyped_storage().data_ptr() == sample.untyped_storage().data_ptr()
    return velocity.clone() if shared and velocity is not sample else velocity


def _get(sample: Tensor, rows: tuple[int, ...]) -> Tensor:
    """The rows, as a view where they are neighbours."""
    if rows == tuple(range(rows[0], rows[0] + len(rows))):
        return sample[rows[0] : rows[0] + len(rows)]
    return sample[upload(torch.tensor(rows), sample.device)]


def _put(sample: Tensor, rows: tuple[int, ...], moved: Tensor) -> None:
    """Write rows back that `_get` has taken, unless they are a view."""
    if moved.untyped_storage().data_ptr() != sample.untyped_storage().data_ptr():
        sample[upload(torch.tensor(rows), sample.device)] = moved


def _check(
    noise: Tensor,
    grid: SigmaGrid,
    condition: Condition,
    stop: Tensor,
    batch_size: int | None,
    solver: str,
) -> None:
    batch = noise.shape[0]
    if batch == 0 or len(condition) != batch:
        raise ValueError(
            f"condition must hold one entry per sample, but got {len(condition)} for {batch} samples; "
            "pass the same number (at least one) of both."
        )
    if stop.dtype != torch.int64 or stop.ndim not in (1, 2) or len(stop) != batch or not stop.numel():
        raise ValueError(
            f"stop must be int64 of shape [{batch}] or [{batch}, K], but got {stop.dtype} of shape "
            f"{list(stop.shape)}; give one state per sample, or K."
        )
    if int(stop.min()) < 0 or int(stop.max()) > grid.num_steps:
        raise ValueError(
            f"stop must lie in 0 .. {grid.num_steps}, but got {stop.tolist()}; state 0 is the noise."
        )
    if stop.ndim == 2 and not bool((stop.diff(dim=1) > 0).all()):
        raise ValueError(f"stop must rise along each sample's states, but got {stop.tolist()}; sort them.")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, but got {batch_size}; None means all samples.")
    if solver not in ("euler", "ab2"):
        raise ValueError(f"solver must be 'euler' or 'ab2', but got {solver!r}; choose one of them.")
