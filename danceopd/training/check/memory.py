"""Bytes of models, and what a forward and backward take on top."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves

from danceopd.training.check.fields import models_of
from danceopd.training.check.report import Memory
from danceopd.training.check.resources import free_memory
from danceopd.training.optimizers import moment_bytes
from danceopd.training.trainer import DanceOPDTrainer

_FP32 = 4


def memory_of(trainer: DanceOPDTrainer, activations: int) -> Memory:
    """Where the memory of a run goes, its models counted as they are loaded."""
    student = trainer.student.module
    device = trainer.family.device
    trained = {id(value) for value in student.parameters() if value.requires_grad}
    fields = [*trainer.teachers, trainer.student.field]
    models = {id(model): model for field in fields for model in models_of(field)} | {id(student): student}
    with_base = {
        id(model)
        for teacher, field in zip(trainer.asked, trainer.teachers, strict=True)
        for model in models_of(field)
        if teacher.checkpoint is None
    } | {id(student)}

    seen: set[int] = set()
    counts = {"student": 0, "adapters": 0, "base": 0, "teachers": 0}
    waiting = [0]
    for key, model in models.items():
        away = device.type != "cpu" and all(value.device.type == "cpu" for value in model.parameters())
        if away:
            waiting.append(storage_bytes(model.parameters(), seen))
            continue
        kinds: dict[str, list[Tensor]] = {kind: [] for kind in counts}
        for name, value in model.named_parameters():
            kinds[_kind(name, value, trained, key in with_base)].append(value)
        for kind, values in kinds.items():
            counts[kind] += storage_bytes(values, seen)
    masters = trainer.weights.masters
    numbers = sum(master.numel() for master in masters.values())
    copies = sum(master.nbytes for master in masters.values() if id(master) not in trained)
    return Memory(
        base=counts["base"],
        adapters=counts["adapters"],
        teachers=counts["teachers"] + max(waiting),
        student=counts["student"],
        masters=copies,
        gradients=numbers * _FP32,
        optimizer=moment_bytes(masters.values(), trainer.config),
        ema=numbers * _FP32 if trainer.mean else 0,
        activations=activations,
        free=free_memory(device),
    )


def _kind(name: str, value: Tensor, trained: set[int], with_base: bool) -> str:
    if id(value) in trained:
        return "student"
    if ".lora_" in name:
        return "adapters"
    return "base" if with_base else "teachers"


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
    """Bytes that are alive at the worst moment of `work`, beyond those from before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with _LiveBytes() as live:
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
