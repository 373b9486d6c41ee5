"""The optimizers to choose from, and their state as plain tensors that a checkpoint keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any, Final

import torch
from torch import Tensor
from torch.optim import Optimizer

from danceopd.settings import ConfigError
from danceopd.training.config import TrainConfig

_STATE: Final = ("exp_avg", "exp_avg_sq", "step")
_PARTS: Final = ("codes", "scale", "qmap")  # of a moment in 8 bits
_FP32: Final = 4


def find_optimizer(config: TrainConfig) -> Callable[..., Optimizer]:
    """AdamW, its moments in fp32, or in 8 bits (Dettmers et al., arXiv 2110.02861) by torchao.

    Raises:
        ConfigError: torchao is not installed.
    """
    if config.optimizer == "adamw":
        return torch.optim.AdamW
    try:
        from torchao.optim import AdamW8bit
    except ImportError:
        raise ConfigError(
            "optimizer 'adamw8bit' is torchao's, which is not installed: pip install torchao."
        ) from None
    found: Callable[..., Optimizer] = AdamW8bit
    return found


def make_optimizer(weights: Iterable[Tensor], config: TrainConfig) -> Optimizer:
    """The optimizer of a run with its numbers.

    Raises:
        ConfigError: its package is not installed.
    """
    numbers: dict[str, Any] = {
        "lr": config.learning_rate,
        "betas": (config.adam_beta1, config.adam_beta2),
        "eps": config.adam_epsilon,
        "weight_decay": config.weight_decay,
    }
    return find_optimizer(config)(weights, **numbers)


def take_step(optimizer: Optimizer, learning_rate: float) -> None:
    """One update of the weights from their gradients."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(learning_rate)
        else:
            group["lr"] = learning_rate
    # torchao compiles its step, for each shape anew and with a compiler that need not be there. Uncompiled it
    # is short too beside an update's forwards, and its bits do not hang on what a compiler makes of it.
    eager = isinstance(optimizer, torch.optim.AdamW)
    with nullcontext() if eager else torch.compiler.set_stance("force_eager"):
        optimizer.step()


def state_tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """A weight's state as plain tensors: ``exp_avg``, or ``exp_avg.codes`` and others for one in 8 bits."""
    found: dict[str, Tensor] = {}
    for name in _STATE:
        value = state[name]
        if hasattr(value, "codes"):
            found.update({f"{name}.{part}": getattr(value, part) for part in _PARTS})
        else:
            found[name] = value
    return found


def state_from_tensors(tensors: Mapping[str, Tensor], weight: str, device: torch.device) -> dict[str, Tensor]:
    """What `state_tensors` made plain, from ``WEIGHT.exp_avg`` and so on, copied; nothing of nothing."""

    def copied(name: str) -> Tensor:
        # AdamW keeps its step count on the CPU; only the moments live with the weights.
        return tensors[f"{weight}.{name}"].to("cpu" if name == "step" else device, copy=True)

    state = {}
    for name in _STATE:
        if f"{weight}.{name}" in tensors:
            state[name] = copied(name)
        elif f"{weight}.{name}.codes" in tensors:
            from torchao.optim.subclass_8bit import OptimState8bit

            codes, scale, qmap = (copied(f"{name}.{part}") for part in _PARTS)
            state[name] = OptimState8bit(codes, scale, qmap, signed=name == "exp_avg", dtype=torch.float32)
    return state


def moment_bytes(weights: Iterable[Tensor], config: TrainConfig) -> int:
    """Bytes of AdamW's two moments of some weights."""
    total = 0
    for weight in weights:
        if config.optimizer == "adamw8bit" and weight.numel() >= 4096 and weight.numel() % 256 == 0:
            # A byte each, a scale for each block of 256, and a table of what the 256 bytes stand for.
            total += 2 * (weight.numel() + _FP32 * (weight.numel() // 256 + 256))
        else:
            total += 2 * _FP32 * weight.numel()
    return total
