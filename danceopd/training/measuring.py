"""Bytes of tensors, what is free, and what some work takes at its worst moment."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves


def free_memory(device: torch.device) -> int:
    """Bytes that this process can still take on a device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + reserved
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # no Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def storage_bytes(tensors: Iterable[Tensor], seen: set[int]) -> int:
    """Bytes of the storages under some tensors, without those in `seen`, to which they are added."""
    total = 0
    for tensor in tensors:
        for plain in _plain(tensor):
            storage = plain.untyped_storage()
            if storage.data_ptr() not in seen:
                seen.add(storage.data_ptr())
                total += storage.nbytes()
    return total


def _plain(tensor: Tensor) -> list[Tensor]:
    """The tensors that a quantised one is made of, or the share that is here of a spread one, or itself."""
    value: Any = tensor.data if isinstance(tensor, nn.Parameter) else tensor
    if not is_traceable_wrapper_subclass(value):
        return [tensor]
    names, _ = value.__tensor_flatten__()
    parts = [getattr(value, name) for name in names]  # a spread one names its mesh of processes as well
    return [plain for part in parts if isinstance(part, Tensor) for plain in _plain(part)]


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """Bytes that are alive at the worst moment of `work`, beyond those from before.

    On the CPU compiled code, inside which nothing is seen, runs uncompiled and takes what it takes then.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with torch.compiler.set_stance("force_eager"), _LiveBytes() as live:
        work()
    return live.peak


class _LiveBytes(TorchDispatchMode):
    """Adds up the storages that operations make, and takes them off as they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._now = 0
        self._alive: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = {_address(value) for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)}
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and _address(value) not in given:
                self._add(value.untyped_storage())
        return result

    def _add(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return

        def freed(_: object) -> None:
            del self._alive[key]
            self._now -= size

        self._alive[key] = weakref.ref(storage, freed)
        self._now += size
        self.peak = max(self.peak, self._now)


def _address(value: Tensor) -> int:
    return int(value.untyped_storage()._cdata)
