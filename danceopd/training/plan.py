"""What update s does, as a pure function of (seed, step, rank, slot).

No generator state is carried from step to step, so a resumed run takes the same decisions as an uninterrupted
one by construction, and any step of a run can be replayed or audited alone.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from typing import Final

import numpy as np

from danceopd.flow import QueryLaw, SigmaGrid, route_probabilities
from danceopd.training.config import TrainConfig

# "plan" and "strata": they keep these numbers apart from other uses of the same seed.
_STREAM: Final = 0x706C616E
_STRATA: Final = 0x737472617461


@dataclass(frozen=True)
class SlotPlan:
    """One sample of one update.

    Attributes:
        route: position of its route.
        row: position of its example in the route's data.
        noise_seed: in [0, 2**63), for the noise that it starts from.
        states: the states to query, rising, each in 0 .. num_steps - 1.
        drop: whether its prompt is dropped.
        offset: in [0, 1), for methods that query between two states.
    """

    route: int
    row: int
    noise_seed: int
    states: tuple[int, ...]
    drop: bool
    offset: float = 0.0


@dataclass(frozen=True)
class Plan:
    """The plan of a run.

    Slots are counted over all ranks (``rank * slots_per_rank + slot``), so a global batch holds the same
    samples however it is split. Every slot draws its values in the same order: changing the query law or the
    drop probability changes nothing else.

    Args:
        seed: in [0, 2**64).
        route_weights: one per route, >= 0, not all 0.
        route_sizes: rows of each route's data.
        query: law of the queried states.
        num_steps: N, steps of the rollout.
        drop_probability: in [0, 1].
        slots_per_rank: samples of one update on one rank.
        num_ranks: that share an update.
        num_states: K, states to query of a sample, drawn without repeats; N queries all of them.
        group_size: slots in a row that share all but their noise; divides the samples of an update.
        stratified: spread the queries of an update evenly over their law; needs K = 1.
        one_route: draw one route for all samples of an update, in place of one for each.
        grid_of: ``grid_of(route, row)``, the noise levels of a row's rollout, for a law over sigma; equal
            steps when None.
    """

    seed: int
    route_weights: tuple[float, ...]
    route_sizes: tuple[int, ...]
    query: QueryLaw
    num_steps: int
    drop_probability: float
    slots_per_rank: int
    num_ranks: int = 1
    num_states: int = 1
    group_size: int = 1
    stratified: bool = False
    one_route: bool = False
    grid_of: Callable[[int, int], SigmaGrid] | None = None
    _route_edges: tuple[float, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed must lie in 0 .. 2**64 - 1, but got {self.seed}; pick one of these.")
        if len(self.route_weights) != len(self.route_sizes):
            raise ValueError(
                f"route_sizes must hold one number per route, but got {len(self.route_sizes)} for "
                f"{len(self.route_weights)} weights; pass as many of both."
            )
        if any(size < 1 for size in self.route_sizes):
            raise ValueError(
                f"route_sizes must be 1 or above, but got {list(self.route_sizes)}; give each route data."
            )
        if not 0.0 <= self.drop_probability <= 1.0:
            raise ValueError(f"drop_probability must lie in 0 .. 1, got {self.drop_probability}; 0 is never.")
        if self.slots_per_rank < 1 or self.num_ranks < 1:
            raise ValueError(
                f"slots_per_rank must be at least 1 on at least one rank, but got {self.slots_per_rank} on "
                f"{self.num_ranks}; raise it."
            )
        if self.group_size < 1 or self.slots % self.group_size:
            raise ValueError(
                f"group_size must divide the {self.slots} samples of an update, but got {self.group_size}; "
                "change one of the two."
            )
        # Asked for here so that a law that does not fit the rollout is refused now and not at step 1.
        self.query.probabilities(self.num_steps)
        if not 1 <= self.num_states <= self.num_steps:
            raise ValueError(
                f"num_states must lie in 1 .. {self.num_steps}, the steps of the rollout, but got "
                f"{self.num_states}; lower it or add steps."
            )
        if self.num_states > 1 and (self.stratified or self.query.index is not None):
            kind = "stratified queries" if self.stratified else "a fixed state"
            raise ValueError(
                f"num_states must be 1 with {kind}, but got {self.num_states}; drop one of them."
            )
        edges = tuple(accumulate(route_probabilities(self.route_weights)))
        object.__setattr__(self, "_route_edges", edges)

    @property
    def slots(self) -> int:
        """Samples of one update on all ranks."""
        return self.slots_per_rank * self.num_ranks

    def slot(self, step: int, rank: int, slot: int) -> SlotPlan:
        """Sample `slot` of rank `rank` in update `step`, all counted from 0."""
        if step < 0 or rank < 0 or not 0 <= slot < self.slots_per_rank:
            raise ValueError(
                f"step, rank and slot must be 0 or above and slot below {self.slots_per_rank}, but got "
                f"({step}, {rank}, {slot}); count from 0."
            )
        place = rank * self.slots_per_rank + slot
        first = place - place % self.group_size
        noise_seed, rng = self._stream(step, first)
        u = rng.random()
        if self.one_route and first:
            u = self._stream(step, 0)[1].random()
        route = self._route(u)
        row = min(int(rng.random() * self.route_sizes[route]), self.route_sizes[route] - 1)
        u = rng.random()
        drop = bool(rng.random() < self.drop_probability)
        offset = rng.random()
        states = self._states(self._spread(step, first, u), rng, self._states_of(route, row))
        if place != first:
            noise_seed, _ = self._stream(step, place)
        return SlotPlan(route, row, noise_seed, states, drop, offset)

    def step(self, step: int, rank: int = 0) -> tuple[SlotPlan, ...]:
        """All samples of rank `rank` in update `step`."""
        return tuple(self.slot(step, rank, slot) for slot in range(self.slots_per_rank))

    def _stream(self, step: int, place: int) -> tuple[int, np.random.Generator]:
        """The noise seed of a slot, counted over all ranks, and the generator of all else."""
        # Counter-based: every (step, place) has its own stream, reached without drawing.
        key = np.array([self.seed, _STREAM], dtype=np.uint64)
        bits = np.random.Philox(key=key, counter=np.array([0, place, step, 0], dtype=np.uint64))
        return int(bits.random_raw()) >> 1, np.random.Generator(bits)

    def _route(self, u: float) -> int:
        # Scaled by the last edge, which rounding may leave a hair below 1, so that no u points past the end
        # and a last route of weight 0 keeps an empty interval.
        return bisect_right(self._route_edges, u * self._route_edges[-1])

    def _states_of(self, route: int, row: int) -> int | SigmaGrid:
        if self.query.over == "index" or self.grid_of is None:
            return self.num_steps
        return self.grid_of(route, row)

    def _spread(self, step: int, place: int, u: float) -> float:
        """`u` in the part of [0, 1) that is this slot's, if they are shared out; anew in every update."""
        if not self.stratified:
            return u
        parts = self.slots // self.group_size
        return (_shares(self.seed, step, parts)[place // self.group_size] + u) / parts

    def _states(self, u: float, rng: np.random.Generator, of: int | SigmaGrid) -> tuple[int, ...]:
        if self.num_states == self.num_steps:
            return tuple(range(self.num_steps))
        chosen = [self.query.state_at(u, of)]
        left = np.array(self.query.probabilities(of))
        while len(chosen) < self.num_states:
            left[chosen[-1]] = 0.0
            edges = np.cumsum(left)
            free = sorted(set(range(self.num_steps)) - set(chosen))
            # Far from where a steep law lies, probabilities vanish in rounding: then the nearest to clean.
            place = int(np.searchsorted(edges, rng.random() * edges[-1], side="right"))
            chosen.append(place if place in free else free[-1])
        return tuple(sorted(chosen))


def plan_of(
    config: TrainConfig,
    weights: Sequence[float],
    sizes: Sequence[int],
    num_ranks: int,
    grid_of: Callable[[int, int], SigmaGrid],
) -> Plan:
    """The plan of a configured run.

    Args:
        config: of the run.
        weights: of its routes.
        sizes: rows of each of them.
        num_ranks: processes that share an update.
        grid_of: see `Plan`.
    """
    method = config.method
    return Plan(
        seed=config.seed,
        route_weights=tuple(weights),
        route_sizes=tuple(sizes),
        query=config.query_law,
        num_steps=config.num_rollout_steps,
        drop_probability=config.drop_condition,
        slots_per_rank=config.samples_per_update,
        num_ranks=num_ranks,
        num_states=method.num_states(config.num_rollout_steps),
        group_size=method.group_size,
        stratified=config.query is not None and config.query.stratified,
        one_route=config.route_per == "update",
        grid_of=grid_of,
    )


@lru_cache(maxsize=4)
def _shares(seed: int, step: int, parts: int) -> list[int]:
    """Which part of the law each group of slots has in update `step`."""
    key = np.array([seed, _STRATA], dtype=np.uint64)
    bits = np.random.Philox(key=key, counter=np.array([0, 0, step, 0], dtype=np.uint64))
    shares: list[int] = np.random.Generator(bits).permutation(parts).tolist()
    return shares
