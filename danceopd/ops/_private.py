"""What is private to torch, all of it here: there is no public way to ask for these.

A torch without one of them is served all the same, by the slower way, and says so once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import forward_ad


def _bound(path: str, absent: Any) -> Any:
    """The object at a path below torch; `absent`, which rules the fast path out, where torch has none."""
    found: Any = torch
    for name in path.split("."):
        found = getattr(found, name, None)
    if found is None:
        warnings.warn(
            f"torch {torch.__version__} has no torch.{path}, so danceopd's ops take a slower way; "
            "take a newer danceopd.",
            RuntimeWarning,
            stacklevel=2,
        )
        return absent
    return found


def _no_stream(device: int) -> int:
    raise RuntimeError(f"This torch has no CUDA, so device {device} has no stream.")


def _one_mode() -> int:
    return 1


def _unknown() -> bool:
    return True


dispatch_modes: Callable[[], int] = _bound("_C._len_torch_dispatch_stack", _one_mode)
function_transform: Callable[[], Any] = _bound("_C._functorch.peek_interpreter_stack", _unknown)
tracing_state: Callable[[], Any] = _bound("_C._get_tracing_state", _unknown)
raw_stream: Callable[[int], int] = getattr(torch._C, "_cuda_getCurrentRawStream", _no_stream)
# What `is_grads_batched=True` hands to a backward pass; no transform is at work then.
batched: Callable[[torch.Tensor], bool] = torch._C._functorch.is_legacy_batchedtensor
forward_ad_names: dict[str, Any] = vars(forward_ad)  # its "_current_level" is -1 outside dual_level()


def transformed() -> bool:
    """Whether only plain torch takes part: in torch.func, forward-mode differentiation, torch.jit.trace."""
    return (
        function_transform() is not None
        or forward_ad_names.get("_current_level", 0) >= 0
        or tracing_state() is not None
    )
