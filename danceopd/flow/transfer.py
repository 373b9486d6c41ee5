"""From the host to the device without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor


def upload(host: Tensor, device: torch.device) -> Tensor:
    """`host` on `device`, sent without waiting for the work that is queued there.

    A plain ``to(device)`` waits until the device has come to the copy, and so does an index that is still on
    the host: the device then runs dry while the host prepares what is next. Memory that is pinned first is
    sent in its turn.

    Args:
        host: a tensor on the CPU; one on `device` is returned as it is.
        device: where it is needed.
    """
    if device.type == "cuda" and host.device.type == "cpu":
        host = host.pin_memory()
    return host.to(device, non_blocking=True)
