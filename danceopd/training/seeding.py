"""Random numbers that follow from a seed and a place in the run, not from what was drawn before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int, *place: int, device: torch.device) -> Iterator[None]:
    """Within the block torch draws what follows from ``(seed, *place)``; afterwards its state is as before.

    Covers what draws from torch's global generators on the CPU and on ``device``: the initial values of a
    LoRA, dropout in a student. Generators of other devices are not touched.
    """
    key = int(np.random.SeedSequence([seed, *place]).generate_state(1, np.uint64)[0])
    index = None
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
    with torch.random.fork_rng(devices=[] if index is None else [index]):
        # Not torch.manual_seed, which seeds every device there is.
        torch.default_generator.manual_seed(key)
        if index is not None:
            with torch.cuda.device(index):
                torch.cuda.manual_seed(key)
        yield
