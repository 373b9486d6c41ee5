"""What update s does, as a pure function of (seed, step, rank, slot).

No generator state is carried from step to step, so a resumed run takes the same decisions as an uninterrupted
one by construction, and any step of a run can be replayed or audited alone.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

import numpy as np

from danceopd.flow import QueryLaw, route_probabilities

_STREAM: Final = 0x706C616E  # "plan": keeps these numbers apart from other uses of the same seed


@dataclass(frozen=True)
class SlotPlan:
    """One sample of one update.

    Attributes:
        route: position of its route.
        row: position of its example in the route's data.
        noise_seed: in [0, 2**63), for the noise that it starts from.
        query_index: the state to query, in 0 .. num_steps - 1.
        drop: whether its prompt is dropped.
    """

    route: int
    row: int
    noise_seed: int
    query_index: int
    drop: bool


@dataclass(frozen=True)
class Plan:
    """The plan of a run.

    Slots are counted over all ranks (``rank * slots_per_rank + slot``), so a global batch holds the same
    samples however it is split. Every slot draws the same number of values in the same order: changing the
    query law or the drop probability changes nothing else.

    Args:
        seed: in [0, 2**64).
        route_weights: one per route, >= 0, not all 0.
        route_sizes: rows of each route's data.
        query: law of the queried state.
        num_steps: N, steps of the rollout.
        drop_probability: in [0, 1].
        slots_per_rank: samples of one update on one rank.
    """

    seed: int
    route_weights: tuple[float, ...]
    route_sizes: tuple[int, ...]
    query: QueryLaw
    num_steps: int
    drop_probability: float
    slots_per_rank: int
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
        if self.slots_per_rank < 1:
            raise ValueError(f"slots_per_rank must be at least 1, but got {self.slots_per_rank}; raise it.")
        # Asked for here so that a law that does not fit the rollout is refused now and not at step 1.
        self.query.probabilities(self.num_steps)
        edges = tuple(accumulate(route_probabilities(self.route_weights)))
        object.__setattr__(self, "_route_edges", edges)

    def slot(self, step: int, rank: int, slot: int) -> SlotPlan:
        """Sample `slot` of rank `rank` in update `step`, all counted from 0."""
        if step < 0 or rank < 0 or not 0 <= slot < self.slots_per_rank:
            raise ValueError(
                f"step, rank and slot must be 0 or above and slot below {self.slots_per_rank}, but got "
                f"({step}, {rank}, {slot}); count from 0."
            )
        # A counter-based generator: every (step, global slot) has its own stream, reached without drawing.
        global_slot = rank * self.slots_per_rank + slot
        key = np.array([self.seed, _STREAM], dtype=np.uint64)
        bits = np.random.Philox(key=key, counter=np.array([0, global_slot, step, 0], dtype=np.uint64))
        rng = np.random.Generator(bits)
        noise_seed = int(bits.random_raw()) >> 1
        route = self._route(rng.random())
        row = min(int(rng.random() * self.route_sizes[route]), self.route_sizes[route] - 1)
        query_index = self.query.draw(rng, self.num_steps)
        drop = bool(rng.random() < self.drop_probability)
        return SlotPlan(route, row, noise_seed, query_index, drop)

    def step(self, step: int, rank: int = 0) -> tuple[SlotPlan, ...]:
        """All samples of rank `rank` in update `step`."""
        return tuple(self.slot(step, rank, slot) for slot in range(self.slots_per_rank))

    def _route(self, u: float) -> int:
        # Scaled by the last edge, which rounding may leave a hair below 1, so that no u points past the end
        # and a last route of weight 0 keeps an empty interval.
        return bisect_right(self._route_edges, u * self._route_edges[-1])
