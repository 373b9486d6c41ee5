"""What each teacher is, and whether it teaches anything."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from torch import nn

from danceopd.families import Teacher
from danceopd.families.base import field_of
from danceopd.flow import VelocityField
from danceopd.settings import ConfigError
from danceopd.training.batch import PlannedBatch
from danceopd.training.check.fields import adapter_of, base_field, distance, first_velocity
from danceopd.training.check.probe import Probe
from danceopd.training.check.report import TeacherFacts
from danceopd.training.trainer import DanceOPDTrainer


def describe_teachers(trainer: DanceOPDTrainer, probe: Probe) -> Iterator[TeacherFacts]:
    """Each teacher that some route asks, tried on a row of such a route.

    Raises:
        ConfigError: a teacher's velocity is not finite, or is that of the field without its LoRA, its
            checkpoint or its guidance.
    """
    # Not `trainer.field`, which may record what it runs: here blocks run uncompiled.
    student = trainer.family.guided(trainer.student.field, trainer.config.student_guidance_scale)
    for index, (teacher, field) in enumerate(zip(trainer.asked, trainer.teachers, strict=True)):
        route = trainer.teacher_of_route.index(index)
        (batch,) = probe.batches(probe.slots(route)[:1], trainer.teacher_of_route)
        velocity = first_velocity(field, batch, f"teacher '{teacher.name}'")
        if not bool(velocity.isfinite().all()):
            raise ConfigError(
                f"teacher '{teacher.name}' returns a velocity that is not finite: restore its weights, or "
                "use dtype bfloat16 or float32 as it was trained."
            )
        without, part = _without(trainer, teacher)
        change = None if without is None else distance(velocity, first_velocity(without, batch))
        if part and (change == 0.0 or (without is not None and _ignores_prompts(teacher, without, batch))):
            raise ConfigError(
                f"teacher '{teacher.name}' is a no-op: {part} changes nothing in its velocity; give other "
                "weights, or leave that out and let the teacher be what is under it."
            )
        layers, of_layers, ranks, scales = _adapter(field)
        yield TeacherFacts(
            name=teacher.name,
            what=_what(teacher),
            layers=layers,
            of_layers=of_layers,
            ranks=ranks,
            scales=scales,
            guidance_scale=teacher.guidance_scale,
            change=change,
            student_distance=distance(first_velocity(student, batch), velocity),
        )


def _without(trainer: DanceOPDTrainer, teacher: Teacher) -> tuple[VelocityField | None, str]:
    """The field without what makes a teacher one, and what that is; nothing for the base."""
    family = trainer.family
    if teacher.identity is not None and teacher.guidance_scale == 1.0:
        return None, ""
    if teacher.lora is not None:
        plain = dataclasses.replace(teacher, lora=None, weight_name=None, scale=1.0)
        return family.teacher(plain), f"its LoRA '{teacher.lora}' at scale {teacher.scale:g}"
    if teacher.checkpoint not in (None, "base"):
        base = base_field(trainer, teacher.guidance_vector)
        guided = None if base is None else family.guided(base, teacher.guidance_scale)
        return guided, f"its checkpoint '{teacher.checkpoint}'"
    if teacher.guidance_scale != 1.0:
        plain = dataclasses.replace(teacher, guidance_scale=1.0)
        return field_of(family, plain), f"guidance_scale={teacher.guidance_scale:g}"
    return family.teacher(teacher), ""


def _ignores_prompts(teacher: Teacher, field: VelocityField, batch: PlannedBatch) -> bool:
    """Whether there is nothing that the guidance of a teacher which is guidance alone could contrast."""
    if teacher.lora is not None or teacher.checkpoint not in (None, "base"):
        return False
    # Not told from the guided field, whose batch is twice as large and rounds in other places.
    without_prompt = batch.batch._replace(condition=batch.batch.condition.unconditional())
    apart = first_velocity(field, batch._replace(batch=without_prompt))
    return distance(apart, first_velocity(field, batch)) == 0.0


def _what(teacher: Teacher) -> str:
    if teacher.identity is not None:
        return f"a field of Python code ({teacher.identity})"
    kinds = [("LoRA", teacher.lora is not None), ("checkpoint", teacher.checkpoint is not None)]
    named = " on ".join(kind for kind, there in kinds if there)
    return named or ("the base" if teacher.guidance_scale == 1.0 else "guidance on the base")


def _adapter(
    field: VelocityField,
) -> tuple[int, int, tuple[int, int] | None, tuple[float, float] | None]:
    adapted = adapter_of(field)
    if adapted is None:
        return 0, 0, None, None
    modules = dict(adapted.model.named_modules())
    layers = [
        module for module in modules.values() if adapted.adapter in getattr(module, "lora_A", {})
    ]  # PEFT's record of an adapter, layer by layer
    linear = sum(isinstance(part, nn.Linear) and ".lora_" not in name for name, part in modules.items())
    ranks = [int(layer.r[adapted.adapter]) for layer in layers]
    scales = [float(layer.scaling[adapted.adapter]) for layer in layers]
    return len(layers), linear, (min(ranks), max(ranks)), (min(scales), max(scales))
