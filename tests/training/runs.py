"""What tests of whole runs share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from danceopd.training import (
    DanceOPDTrainer,
)

MakeTrainer = Callable[..., DanceOPDTrainer]

ENDLESS = """
output_dir: {folder}/run
family: shapesworld
max_steps: 100000
batch_size: 1
gradient_accumulation_steps: 1
num_rollout_steps: 1
save_every: 100000
progress: false
teachers:
  - {{name: local, checkpoint: local}}
routes:
  - {{teacher: local, data: local}}
"""
"""A run of the miniature world that goes on until it is told to stop."""


def bits(folder: Path, step: int) -> dict[str, bytes]:
    checkpoint = folder / "checkpoints" / f"step-{step:08d}"
    return {path.name: path.read_bytes() for path in sorted(checkpoint.glob("*.safetensors"))}


def put_in_place(trainer: DanceOPDTrainer, number: int, field: Any) -> None:
    """Have ``field`` asked in the place of a teacher, without the run knowing it for another one."""
    name, made = trainer.asked[number].name, trainer._teachers
    setattr(trainer, "_teachers", lambda: {**made(), name: field})  # noqa: B010


def at_update(trainer: DanceOPDTrainer, step: int, action: Callable[[], object], *, call: int = 1) -> None:
    """Have ``action`` done in the update after ``step``, at the ``call``-th call of the second teacher."""
    teacher, calls = trainer.teachers[1], []

    def field(sample: Any, sigma: Any, condition: Any) -> Any:
        if trainer.step == step:
            calls.append(step)
            if len(calls) == call:
                action()
        return teacher(sample, sigma, condition)

    put_in_place(trainer, 1, field)
