"""What a stochastic step returns."""

from __future__ import annotations

from typing import NamedTuple

import torch


class SDEStep(NamedTuple):
    """One stochastic step of a batch.

    Attributes:
        sample: the state that was reached, [B, ...] in the sample's dtype; `next_sample` itself when given.
        mean: of the transition, [B, ...] in the sample's dtype.
        log_prob: log-density of `sample` under the transition, averaged over a sample's elements; [B] in
            float32 (float64 for float64).
        std: noise per unit of sqrt(sigma), [B] in the dtype of `log_prob`; the transition's own standard
            deviation is `std * sqrt(max(sigma - sigma_next, 1e-6))`, with sigma clamped to [1e-4, 1].
    """

    sample: torch.Tensor
    mean: torch.Tensor
    log_prob: torch.Tensor
    std: torch.Tensor
