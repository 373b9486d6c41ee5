"""Which state of a trajectory is queried."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from types import MappingProxyType
from typing import Final, Literal

import numpy as np

from danceopd.flow.sigmas import SigmaGrid


@dataclass(frozen=True)
class QueryLaw:
    """The law of the queried state: ``i = floor(N u)`` with ``u ~ Beta(alpha, beta)`` over trajectory order.

    State 0 is pure noise and state N - 1 the last before clean, so alpha > beta prefers low noise, the
    "semantic side" (Beta(5, 2) is the default of arXiv 2606.27377). That is a law over the index: the noise
    levels that it prefers move with the number of steps and the shift of the grid. A law over sigma prefers
    the same noise levels on every grid: ``1 - sigma ~ Beta(alpha, beta)``, and the state is the last one that
    is not cleaner. On a grid of equal steps the two are one.

    Args:
        alpha: > 0, weight of the clean end.
        beta: > 0, weight of the noise end.
        index: query this state always; alpha and beta then mean nothing.
        over: 'index' or 'sigma'.
        uniform_share: in [0, 1], of all queries, that are spread evenly in place of after the Beta law.
    """

    alpha: float = 5.0
    beta: float = 2.0
    index: int | None = None
    over: Literal["index", "sigma"] = "index"
    uniform_share: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("alpha", self.alpha), ("beta", self.beta)):
            if not 0.0 < value <= 1e4:
                raise ValueError(
                    f"{name} must be above 0 and at most 10000, but got {value}; try Beta(5, 2)."
                )
        if self.index is not None and self.index < 0:
            raise ValueError(f"index must be 0 or above, but got {self.index}; 0 is pure noise.")
        if self.over not in ("index", "sigma"):
            raise ValueError(f"over must be 'index' or 'sigma', but got {self.over!r}; choose one of them.")
        if not 0.0 <= self.uniform_share <= 1.0:
            raise ValueError(
                f"uniform_share must lie in 0 .. 1, but got {self.uniform_share}; 0 is the law alone."
            )

    def probabilities(self, states: int | SigmaGrid) -> tuple[float, ...]:
        """P(i) for i = 0 .. N - 1; exact, from the Beta distribution function.

        Args:
            states: the grid, or only N, which stands for a grid of equal steps.
        """
        return _probabilities(self, states)

    def state_at(self, u: float, states: int | SigmaGrid) -> int:
        """The state in 0 .. N - 1 up to which the share `u`, in [0, 1), of the law lies.

        It inverts the distribution of i itself, so that one uniform number is one state, the same under every
        version of numpy.
        """
        return int(np.searchsorted(_cumulative(self, states), u, side="right"))

    def draw(self, rng: np.random.Generator, states: int | SigmaGrid) -> int:
        """One state in 0 .. N - 1; uses up exactly one number of `rng`."""
        return self.state_at(rng.random(), states)

    def expected_forwards(self, states: int | SigmaGrid) -> float:
        """E[i]: forwards per sample of a rollout that stops at the queried state; a full one spends N."""
        return math.fsum(i * p for i, p in enumerate(self.probabilities(states)))


QUERY_LAWS: Final = MappingProxyType(
    {
        "low": QueryLaw(5.0, 2.0),
        "middle": QueryLaw(5.0, 5.0),
        "high": QueryLaw(2.0, 5.0),
        "uniform": QueryLaw(1.0, 1.0),
    }
)
"""The laws of the paper's ablation, named after the noise that they prefer."""


@lru_cache(maxsize=256)
def _probabilities(law: QueryLaw, states: int | SigmaGrid) -> tuple[float, ...]:
    num_states = states if isinstance(states, int) else states.num_steps
    if num_states < 1:
        raise ValueError(f"num_states must be at least 1, but got {num_states}; there is one per step.")
    if law.index is not None:
        if law.index >= num_states:
            raise ValueError(
                f"index must be below num_states ({num_states}), but got {law.index}; lower it or add steps."
            )
        return tuple(float(i == law.index) for i in range(num_states))
    levels = [i / num_states for i in range(num_states + 1)]
    if law.over == "sigma" and isinstance(states, SigmaGrid):
        levels = [1.0 - sigma for sigma in states.values]
    share = law.uniform_share
    edges = [(1.0 - share) * _beta_cdf(level, law.alpha, law.beta) + share * level for level in levels]
    return tuple(high - low for low, high in pairwise(edges))


@lru_cache(maxsize=256)
def _cumulative(law: QueryLaw, states: int | SigmaGrid) -> tuple[float, ...]:
    """Upper edges of all states but the last, which takes the rest: rounding cannot point past the end."""
    return tuple(accumulate(_probabilities(law, states)))[:-1]


def _beta_cdf(x: float, a: float, b: float) -> float:
    """Regularised incomplete beta function I_x(a, b), from its hypergeometric series (NIST DLMF 8.17.8)."""
    if x <= 0.0 or x >= 1.0:
        return float(x >= 1.0)
    if x > a / (a + b):
        # Left of the mean the terms of the series fall from the start; the other side is a reflection of it.
        return 1.0 - _beta_cdf(1.0 - x, b, a)
    term = total = 1.0
    n = 0
    while term > total * 1e-17:
        term *= (a + b + n) / (a + 1.0 + n) * x
        total += term
        n += 1
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    return math.exp(a * math.log(x) + b * math.log1p(-x) - math.log(a) - log_beta) * total
