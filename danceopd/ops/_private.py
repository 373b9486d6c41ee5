"""What is private to torch, all of it here: there is no public way to ask for these."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import forward_ad


def _no_stream(device: int) -> int:
    raise RuntimeError(f"This torch has no CUDA, so device {device} has no stream.")


dispatch_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack
function_transform: Callable[[], Any] = torch._C._functorch.peek_interpreter_stack
raw_stream: Callable[[int], int] = getattr(torch._C, "_cuda_getCurrentRawStream", _no_stream)
# What `is_grads_batched=True` hands to a backward pass; no transform is at work then.
batched: Callable[[torch.Tensor], bool] = torch._C._functorch.is_legacy_batchedtensor
forward_ad_names: dict[str, Any] = vars(forward_ad)  # its "_current_level" is -1 outside dual_level()


def transformed() -> bool:
    """Whether torch.func or forward-mode differentiation is at work, which only plain torch takes part in."""
    return function_transform() is not None or forward_ad_names["_current_level"] >= 0
