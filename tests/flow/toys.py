"""A small nonlinear model with prompts and sources: what the tests roll out, route and distil."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

SHAPE = (3, 4)
"""One sample's shape."""


@dataclass(frozen=True)
class ToyCondition:
    """Prompts and sources as vectors [B, 4]; the empty prompt is the zero vector."""

    prompt: Tensor
    source: Tensor

    def __len__(self) -> int:
        return len(self.prompt)

    def take(self, rows: Tensor) -> ToyCondition:
        return ToyCondition(self.prompt[rows], self.source[rows])

    def concat(self, other: ToyCondition) -> ToyCondition:
        return ToyCondition(torch.cat([self.prompt, other.prompt]), torch.cat([self.source, other.source]))

    def unconditional(self) -> ToyCondition:
        return ToyCondition(torch.zeros_like(self.prompt), self.source)

    def to(self, device: torch.device | str) -> ToyCondition:
        return ToyCondition(self.prompt.to(device), self.source.to(device))


class ToyModel(nn.Module):
    """A two-layer network of sample, sigma, prompt and source."""

    def __init__(self, seed: int = 0, width: int = 32) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first = nn.Linear(12 + 1 + 4 + 4, width)
            self.second = nn.Linear(width, width)
            self.last = nn.Linear(width, 12)

    def forward(self, sample: Tensor, sigma: Tensor, prompt: Tensor, source: Tensor) -> Tensor:
        features = torch.cat([sample.flatten(1), sigma[:, None], prompt, source], dim=1)
        hidden = torch.tanh(self.second(torch.tanh(self.first(features.to(self.first.weight.dtype)))))
        return self.last(hidden).view(sample.shape)


def predict(model: Any, sample: Tensor, sigma: Tensor, condition: ToyCondition) -> Tensor:
    """Call a `ToyModel` under the sigma contract."""
    return model(sample, sigma, condition.prompt, condition.source)


def draw_condition(batch: int, seed: int = 0) -> ToyCondition:
    """Random prompts and sources."""
    generator = torch.Generator().manual_seed(seed)
    return ToyCondition(*(torch.randn(batch, 4, generator=generator) for _ in range(2)))


def draw_sample(batch: int, seed: int = 1) -> Tensor:
    """Random states [B, *SHAPE]."""
    return torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(seed))


@dataclass
class Recorder:
    """A field that remembers what it was called with."""

    field: Any
    samples: list[Tensor] = field(default_factory=list)
    sigmas: list[Tensor] = field(default_factory=list)
    conditions: list[ToyCondition] = field(default_factory=list)

    def __call__(self, sample: Tensor, sigma: Tensor, condition: ToyCondition) -> Tensor:
        self.samples.append(sample.clone())
        self.sigmas.append(sigma.clone())
        self.conditions.append(condition)
        return self.field(sample, sigma, condition)

    @property
    def batches(self) -> list[int]:
        """Batch size of every call."""
        return [len(sample) for sample in self.samples]
