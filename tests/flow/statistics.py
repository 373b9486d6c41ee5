"""A goodness-of-fit test that needs nothing but numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def chi_square(observed: ArrayLike, expected: ArrayLike) -> float:
    """Pearson's statistic."""
    observed, expected = np.asarray(observed, float), np.asarray(expected, float)
    return float(((observed - expected) ** 2 / expected).sum())


def critical_value(degrees: int, z: float = 3.7) -> float:
    """The chi-square value exceeded with probability 1e-4 (Wilson-Hilferty); `z` is the normal quantile."""
    return degrees * (1.0 - 2.0 / (9.0 * degrees) + z * (2.0 / (9.0 * degrees)) ** 0.5) ** 3
