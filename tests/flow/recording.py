"""A stand-in for CUDA graphs on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only


class OnTheHost:
    """Records as CUDA does: what runs again is the same call on the same memory."""

    def __init__(self) -> None:
        self.recorded = 0
        self.replays = 0

    def __call__(self, work: Callable[[], Any]) -> tuple[Any, Callable[[], object]]:
        self.recorded += 1
        output = tree_map_only(Tensor, torch.clone, work())
        places = tree_leaves(output)

        def replay() -> None:
            self.replays += 1
            for place, value in zip(places, tree_leaves(work()), strict=True):
                place.copy_(value)

        for place in places:
            place.fill_(float("nan"))  # a graph computes nothing while it is recorded
        return output, replay
