"""Devices that a family can be loaded on, and the precision of its models."""

from __future__ import annotations

import os
from typing import Final

import torch

_DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def usable_dtype(name: str | torch.dtype) -> torch.dtype:
    """The dtype called ``name``, one of those that a config's ``dtype`` knows.

    Raises:
        ValueError: it is another; float16 has no room for the large values of these models.
    """
    known = _DTYPES.get(str(name).removeprefix("torch."))
    if known is None:
        raise ValueError(f"dtype {name!r} is not supported: use 'float32' or 'bfloat16'.")
    return known


def usable_device(name: str | torch.device) -> torch.device:
    """The device called ``name``: cpu, cuda or cuda:N.

    Where a launcher (``torchrun``, ``accelerate launch``) has started several processes, cuda is the GPU that
    is this process's own: that of its LOCAL_RANK, or the only one that it sees.

    Raises:
        ValueError: it is of another kind, or torch does not see it here.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device '{name}' is unknown: use cpu, cuda or cuda:N.") from None
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device '{name}' is not supported: use cpu, cuda or cuda:N.")
    if device == torch.device("cuda") and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        alone = torch.cuda.device_count() == 1
        device = torch.device("cuda", 0 if alone else int(os.environ.get("LOCAL_RANK", "0")))
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ValueError(
            f"device '{name}' is not here: torch sees {count} CUDA device(s); use cpu or another index."
        )
    return device
