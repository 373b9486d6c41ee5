"""A pretended accelerator on the CPU, which notes where the host would have to wait for it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import danceopd

DEVICE = torch.device("cuda", 0)
"""What tensors on it say that they are on; no such device is needed."""

_PACKAGE = Path(danceopd.__file__).parent
_READS = {
    "item", "tolist", "numpy", "nonzero", "masked_select", "unique", "bincount", "equal", "allclose",
    "argwhere", "is_nonzero", "__bool__", "__float__", "__int__", "__index__", "__contains__", "histc",
}  # fmt: skip
_CREATES = {"tensor", "as_tensor", "scalar_tensor", "from_numpy"}
_GATHERS = {"index_select", "index_add_", "index_copy_", "gather", "take"}
_INDEXES = {"__getitem__", "__setitem__", "index_put_", "index_put"}


class PretendedDevice(TorchFunctionMode):
    """Computes on the CPU and keeps count of which tensors would be on the device.

    On a device the host runs ahead and queues work. It waits where a value is read back, and also where
    pageable memory is sent: `waits` holds ``(what, file of the package, function)`` of each time. A Python
    list or a host tensor as an index of a device tensor is sent, too.

    Args:
        there: tensors that lie on the device from the start.
    """

    def __init__(self, there: Sequence[Tensor]) -> None:
        super().__init__()
        self.waits: list[tuple[str, str, str]] = []
        for tensor in there:
            put(tensor)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        of = getattr(getattr(func, "__self__", None), "__name__", "")
        if name == "__get__" and of in ("device", "is_cuda"):
            if is_there(args[0]):
                return DEVICE if of == "device" else True
            return func(*args, **kwargs)
        if func is torch.device:
            return func(*args, **kwargs)
        if name == "pin_memory":
            pinned = args[0].clone()
            pinned._pretended_pinned = True
            return pinned
        target = _target(name, args, kwargs)
        inputs = list(_tensors((args, kwargs)))
        on_device = any(map(is_there, inputs))
        self._note(name, args, kwargs, target, on_device)
        args, kwargs = tuple(map(_on_host, args)), {key: _on_host(value) for key, value in kwargs.items()}
        result = func(*args, **kwargs)
        if target is not None:
            on_device = target.type == DEVICE.type
            if on_device != is_there(result) and any(result is tensor for tensor in inputs):
                result = result.clone()  # both places have the CPU's memory, but only one has this tensor
        if on_device:
            for tensor in _tensors(result):
                put(tensor)
        return result

    def _note(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        target: torch.device | None,
        there: bool,
    ) -> None:
        if (name in _READS and there) or (
            name in ("cpu", "to") and there and target is not None and target.type == "cpu"
        ):
            self._add(f"reads by {name}")
        elif name == "to" and not is_there(args[0]) and target is not None and target.type == DEVICE.type:
            if not (kwargs.get("non_blocking") and getattr(args[0], "_pretended_pinned", False)):
                self._add("sends by to")
        elif name in _CREATES and target is not None and target.type == DEVICE.type:
            self._add(f"sends by {name}")
        elif name == "copy_" and is_there(args[0]) != is_there(args[1]):
            self._add("copies between")
        elif name in _INDEXES:
            self._note_index(args, kwargs)
        elif name in _GATHERS and there and not all(map(is_there, _tensors((args, kwargs)))):
            self._add(f"sends by {name}")

    def _note_index(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        index = list(_tensors(args[1]))
        if is_there(args[0]):
            lists = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(part, (list, tuple)) for part in lists) or not all(map(is_there, index)):
                self._add("sends an index")
        if any(is_there(tensor) and tensor.dtype in (torch.bool, torch.uint8) for tensor in index):
            self._add("reads a mask's size")
        stored = list(_tensors(args[2:]))
        if not is_there(args[0]) and any(map(is_there, (*index, *stored))):
            self._add("reads by an index")

    def _add(self, what: str) -> None:
        frame = sys._getframe(2)
        while frame is not None:
            path = Path(frame.f_code.co_filename)
            # Comprehensions have frames of their own up to Python 3.11.
            if _PACKAGE in path.parents and not frame.f_code.co_name.startswith("<"):
                self.waits.append((what, path.relative_to(_PACKAGE).as_posix(), frame.f_code.co_name))
                return
            frame = frame.f_back  # type: ignore[assignment]
        self.waits.append((what, "", ""))


def put(tensor: Tensor) -> None:
    tensor._pretended_there = True  # type: ignore[attr-defined]


def is_there(value: object) -> bool:
    return isinstance(value, Tensor) and getattr(value, "_pretended_there", False)


def _target(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.device | None:
    """The device that a call asks for, if it does."""
    if name == "cpu":
        return torch.device("cpu")
    asked = kwargs.get("device")
    if name == "to":
        asked = next((value for value in args[1:] if isinstance(value, (str, torch.device))), asked)
        like = next((value for value in args[1:] if isinstance(value, Tensor)), None)
        if like is not None:
            return DEVICE if is_there(like) else torch.device("cpu")
    return None if asked is None else torch.device(asked)


def _on_host(value: Any) -> Any:
    if isinstance(value, torch.device) and value.type == DEVICE.type:
        return torch.device("cpu")
    return value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
