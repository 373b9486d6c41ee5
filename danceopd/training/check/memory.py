"""Where the memory of a run goes."""

from __future__ import annotations

from torch import Tensor

from danceopd.flow import models_of
from danceopd.training.check.report import Memory
from danceopd.training.measuring import free_memory, storage_bytes
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
