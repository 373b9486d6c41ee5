"""How sure a mean difference is: paired bootstrap intervals over cases, within categories.

Two contenders draw the same cases from the same noise, so they are compared case by case: what is hard about
a case for both cancels. Cases are drawn with replacement within their category, n - 1 of n, which makes the
variance come out unbiased in small categories as well (Rao and Wu, 1988); the mean over categories is taken
in every draw. A percentile interval cannot reach beyond what was seen: where all differences are equal it has
no width. Where it ends at 0 because no case is worse, or none is better, it is given only for cases enough to
have seen one.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

DRAWS: Final = 5_000
LEVEL: Final = 0.95
FEWEST: Final = 8
"""Cases that an interval is made of at least: with fewer, a bootstrap is surer than it has reason to be."""

UNSEEN: Final = 72
"""So many cases without a loss (or gain) exclude, at 97.5 %, that one in twenty has one: 0.95^72 < 0.025."""


class Estimate(NamedTuple):
    """A mean with its interval of `LEVEL`, which is None where there are too few cases."""

    value: float
    low: float | None
    high: float | None


def estimate(values: Mapping[str, ArrayLike]) -> Estimate:
    """The mean over categories of their means.

    Args:
        values: a number per case, such as its difference between two contenders, by category; at least one
            category, each of at least one case. Categories of one case leave the interval out, for nothing
            tells how much cases differ there.
    """
    arrays = {name: np.asarray(given, np.float64) for name, given in values.items()}
    means = {name: float(of.mean()) for name, of in arrays.items()}
    value = float(np.mean(list(means.values())))
    counts = [len(of) for of in arrays.values()]
    nothing = not any(of.any() for of in arrays.values())
    if sum(counts) < (UNSEEN if nothing else FEWEST) or min(counts) < 2:
        return Estimate(value, None, None)
    drawn = np.zeros(DRAWS)
    for name, of in arrays.items():
        drawn += _times(name, len(of)) @ of / (len(of) - 1)
    low, high = np.quantile(drawn / len(arrays), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    # What sums to nothing but for rounding is nothing: whether 0 is outside the interval hangs on it.
    tiny = 1e-12 * max(float(np.abs(of).max()) for of in arrays.values())
    low, high = (0.0 if abs(end) <= tiny else float(end) for end in (low, high))
    # An end at 0 beyond which no case was seen is no bound: with one gain more it would say less.
    unseen = (low == 0.0 and not any((of < 0).any() for of in arrays.values())) or (
        high == 0.0 and not any((of > 0).any() for of in arrays.values())
    )
    if unseen and sum(counts) < UNSEEN:
        return Estimate(value, None, None)
    return Estimate(value, low, high)


@lru_cache(maxsize=32)
def _times(name: str, count: int) -> NDArray[np.floating[Any]]:
    """float64 [DRAWS, count]: how often each of `count` cases is drawn; the same whenever asked."""
    random = np.random.default_rng([zlib.crc32(name.encode()), count])
    taken = random.integers(0, count, (DRAWS, count - 1))
    taken += np.arange(DRAWS)[:, None] * count
    times = np.bincount(taken.ravel(), minlength=DRAWS * count).reshape(DRAWS, count)
    return np.asarray(times, np.float64)
