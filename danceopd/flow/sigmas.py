"""Grids of noise levels that a rollout walks down."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from danceopd.flow.transfer import upload


def shift_sigma(sigma: float, shift: float) -> float:
    """Move a noise level towards noise: ``shift * sigma / (1 + (shift - 1) * sigma)``.

    Args:
        sigma: noise level in [0, 1]; 0 and 1 stay where they are.
        shift: > 0; 1 changes nothing, larger values stay longer at high noise (SD3.5 and Z-Image use 3).
    """
    if not (math.isfinite(shift) and shift > 0.0):
        raise ValueError(f"shift must be a finite number above 0, but got {shift}; use 1.0 for no shift.")
    # The same fraction with a denominator that makes sigma = 1 exactly 1 for every shift.
    return shift * sigma / (shift * sigma + (1.0 - sigma))


@dataclass(frozen=True)
class SigmaGrid:
    """The N + 1 noise levels of an N-step rollout: state 0 is pure noise (1.0), state N is clean (0.0).

    Args:
        values: strictly decreasing, first 1.0, last 0.0.
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        values = tuple(float(value) for value in self.values)
        object.__setattr__(self, "values", values)
        if len(values) < 2 or values[0] != 1.0 or values[-1] != 0.0:
            raise ValueError(
                f"values must run from 1.0 (noise) to 0.0 (clean), but got {_preview(values)}; add the ends."
            )
        # Written so that a NaN, which compares as False with everything, is refused too.
        if not all(high > low for high, low in itertools.pairwise(values)):
            raise ValueError(
                f"values must be strictly decreasing, but got {_preview(values)}; sort them and drop repeats."
            )

    @classmethod
    def uniform(cls, num_steps: int) -> SigmaGrid:
        """Equal steps: ``sigma_i = 1 - i / num_steps``."""
        return cls.shifted(num_steps, shift=1.0)

    @classmethod
    def shifted(cls, num_steps: int, shift: float) -> SigmaGrid:
        """The uniform grid moved by `shift_sigma`."""
        if num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, but got {num_steps}; a rollout needs one step.")
        return cls(tuple(shift_sigma((num_steps - i) / num_steps, shift) for i in range(num_steps + 1)))

    @property
    def num_steps(self) -> int:
        """N: the number of steps, one less than the number of states."""
        return len(self.values) - 1

    def tensor(self, device: torch.device | str = "cpu") -> Tensor:
        """The levels as fp32 [N + 1]."""
        return upload(torch.tensor(self.values, dtype=torch.float32), torch.device(device))


def _preview(values: tuple[float, ...]) -> str:
    shown = ", ".join(f"{value:g}" for value in values[:6])
    return f"({shown}{', ...' if len(values) > 6 else ''})"
