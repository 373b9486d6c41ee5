"""The stock scheduler beside ours, and a model for both."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
)

from danceopd.schedulers import FusedFlowMatchEulerScheduler

Tensor = torch.Tensor
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def velocity(sample: Tensor, timestep: Tensor, dtype: torch.dtype) -> Tensor:
    """Some model: it depends on the state and on the time."""
    return torch.sin(3.0 * sample.float() + timestep.float() / 250.0).to(dtype)


def pair(config: dict[str, Any], num_steps: int, device: str = "cpu", **grid: Any) -> tuple[Any, Any]:
    """The stock scheduler and ours with its config, ready to step."""
    stock = FlowMatchEulerDiscreteScheduler(**config)
    fused = FusedFlowMatchEulerScheduler.from_config(stock.config)
    for scheduler in (stock, fused):
        scheduler.set_timesteps(num_steps, device=device, **grid)
    return stock, fused


def assert_same_step(stock: Any, fused: Any, sample: Tensor, dtype: torch.dtype, **extra: Any) -> Tensor:
    """One step of both from the same state; the stock result is where the next step starts.

    Stock rounds the step width and the product to the model's dtype before it adds; both round the sum.
    """
    at = stock.step_index or stock.begin_index or 0
    t, width = stock.timesteps[at], (stock.sigmas[at + 1] - stock.sigmas[at]).double()
    v = velocity(sample, t, dtype)
    theirs, ours = (
        s.step(v, t, sample, generator=torch.Generator(sample.device).manual_seed(7), **extra).prev_sample
        for s in (stock, fused)
    )
    assert ours.dtype == theirs.dtype and ours.device == theirs.device
    assert fused.step_index == stock.step_index == at + 1
    eps, wide = torch.finfo(dtype).eps, torch.finfo(torch.float32).eps
    product, reached = (width * v.double()).abs(), theirs.double().abs() + ours.double().abs()
    allowed = (
        eps * (1.0 + eps) * product + (eps + wide) / 2 * reached + torch.finfo(dtype).smallest_normal * eps
    )
    error = (ours.double() - theirs.double()).abs()
    assert bool((error <= allowed).all()), float((error - allowed).max())
    return theirs
