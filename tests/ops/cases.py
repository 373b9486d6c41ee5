"""Operands for the ops, and each op as a function of the module that has it."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from danceopd import ops

Tensor = torch.Tensor
LOW = (torch.bfloat16, torch.float16)
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
OPS = (
    "guide",
    "euler_step",
    "guided_euler_step",
    "heun_step",
    "ab2_step",
    "guided_ab2_step",
    "dpmpp_2m_step",
    "dpmpp_2m_clean",
    "first_dpmpp_2m_step",
    "sde_step",
    "sde_mean",
    "sde_log_prob",
    "sde_std",
    "add_noise",
    "blend",
    "route",
    "velocity_mse",
    "mse_gradient",
    "transition_kl",
    "policy_loss",
)
ALL = (*OPS, "seeded_sde_step")  # its noise has bits to agree on, but no exact value to be near


def operands(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0, offset: int = 0) -> list[Tensor]:
    """Three tensors; `offset` elements into a larger storage, so that 16-byte alignment is lost."""
    generator = torch.Generator().manual_seed(seed)
    count = math.prod(shape)
    made = []
    for _ in range(3):
        storage = torch.randn(count + offset, generator=generator).to(dtype)
        made.append(storage[offset:].view(shape))
    return made


def sigmas(batch: int) -> tuple[Tensor, Tensor]:
    """Falling noise levels for a batch, float64."""
    sigma = torch.linspace(0.95, 0.4, batch, dtype=torch.float64)
    return sigma, sigma * 0.7


def call(name: str, module: ModuleType, x: list[Tensor], each: bool = True) -> Tensor:
    """Run one op of `danceopd.ops` or its reference with floats, or with values per sample (`each`)."""
    batch, device = x[0].shape[0], x[0].device
    now, then = (s.to(device) for s in sigmas(batch)) if each else (0.9, 0.63)
    scale: Any = torch.linspace(1.0, 6.0, batch).to(device, x[0].dtype) if each else 4.5
    weights: Any = (
        torch.tensor([[0.2, 0.3, 0.5]], device=device).expand(batch, 3) if each else [0.2, 0.3, 0.5]
    )
    calls: dict[str, Callable[[], Tensor]] = {
        "guide": lambda: module.guide(x[0], x[1], scale),
        "euler_step": lambda: module.euler_step(x[0], x[1], now, then),
        "guided_euler_step": lambda: module.euler_step(
            x[0], x[1], now, then, uncond=x[2], guidance_scale=scale
        ),
        "heun_step": lambda: module.heun_step(*x, now, then),
        "ab2_step": lambda: module.ab2_step(*x, 0.97, now, then),
        "guided_ab2_step": lambda: module.ab2_step(*x, 0.97, now, then, uncond=x[0], guidance_scale=scale),
        "dpmpp_2m_step": lambda: module.dpmpp_2m_step(*x, 0.97, now, then)[0],
        "dpmpp_2m_clean": lambda: module.dpmpp_2m_step(*x, 0.97, now, then)[1],
        "first_dpmpp_2m_step": lambda: module.dpmpp_2m_step(x[0], x[1], None, None, now, then)[0],
        "sde_step": lambda: module.sde_step(x[0], x[1], now, then, noise=x[2]).sample,
        "sde_mean": lambda: module.sde_step(x[0], x[1], now, then, next_sample=x[2]).mean,
        "sde_log_prob": lambda: module.sde_step(x[0], x[1], now, then, next_sample=x[2]).log_prob,
        "sde_std": lambda: module.sde_step(x[0], x[1], now, then, seed=5).std,
        "seeded_sde_step": lambda: module.sde_step(x[0], x[1], now, then, seed=2**40 + 7).sample,
        "add_noise": lambda: module.add_noise(x[0], x[1], now),
        "blend": lambda: module.blend(x, weights),
        "route": lambda: module.route(x, torch.arange(batch, device=device) % 3),
        "velocity_mse": lambda: module.velocity_mse_with_grad(
            x[0], x[1], uncond=x[2], guidance_scale=scale, weight=now
        )[0],
        "mse_gradient": lambda: module.velocity_mse_with_grad(
            x[0], x[1], uncond=x[2], guidance_scale=scale, weight=now
        )[1],
        "transition_kl": lambda: module.transition_kl(x[0], x[1], now),
        "policy_loss": lambda: module.policy_loss(*x, clip_range=0.2, advantage_clip=1.5),
    }
    return calls[name]()


def exact(name: str, x: list[Tensor], each: bool = True) -> Tensor:
    """The op in float64, from operands as they were rounded."""
    return call(name, ops.reference, [t.double() for t in x], each)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal bit for bit, +0 and -0 apart, where NaN equals NaN."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    a, b = a.detach().cpu().contiguous(), b.detach().cpu().contiguous()
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return bool(((a.view(bits) == b.view(bits)) | (a.isnan() & b.isnan())).all())
