"""Random numbers that follow from a seed and a place in the run, not from what was drawn before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int, *place: int, device: torch.device) -> Iterator[None]:
    """Within the block torch draws what follows from ``(seed, *place)``; afterwards its state is as before.

    Covers what draws from torch's global generators: the initial values of a LoRA, dropout in a student.
    """
    devices = (
        [torch.cuda.current_device() if device.index is None else device.index]
        if device.type == "cuda"
        else []
    )
    key = int(np.random.SeedSequence([seed, *place]).generate_state(1, np.uint64)[0])
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(key)
        yield
