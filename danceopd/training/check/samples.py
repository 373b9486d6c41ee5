"""One sample per teacher and route in a picture, so that a wrong teacher is seen."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from danceopd.flow import VelocityField, rollout
from danceopd.pictures import write_table
from danceopd.training.batch import PlannedBatch
from danceopd.training.check.fields import base_field
from danceopd.training.check.probe import Probe
from danceopd.training.trainer import DanceOPDTrainer

FILE = "samples.png"


def write_samples(trainer: DanceOPDTrainer, probe: Probe, folder: Path) -> Path:
    """A row per route, from the same noise: source, base, teacher, and the student as it starts.

    The base is without guidance, the student under student_guidance_scale.

    Raises:
        OSError: the picture cannot be written.
    """
    base = base_field(trainer)
    table: list[tuple[str, list[Tensor | None]]] = []
    for route, rows in enumerate(probe.rows):
        (batch,) = probe.batches(probe.slots(route)[:1], trainer.teacher_of_route)
        example = rows[0]
        teacher = trainer.teachers[trainer.teacher_of_route[route]] if trainer.teachers else None
        cells: list[Tensor | None] = [example.sources[0] if example.sources else None]
        for field in (base, teacher, trainer.field):
            cells.append(None if field is None else _draw(trainer, field, batch))
        table.append((f"{trainer.route_names[route]}: {example.prompt}", cells))
    columns = ["source", "base", "teacher", "student's start"]
    # Empty columns say nothing.
    used = [place for place in range(len(columns)) if any(cells[place] is not None for _, cells in table)]
    folder.mkdir(parents=True, exist_ok=True)
    return write_table(
        folder / FILE,
        [columns[place] for place in used],
        [(label, [cells[place] for place in used]) for label, cells in table],
    )


@torch.no_grad()
def _draw(trainer: DanceOPDTrainer, field: VelocityField, batch: PlannedBatch) -> Tensor:
    latent = rollout(field, batch.batch.noise, batch.grid, batch.batch.condition).sample
    return trainer.family.decode(latent)[0].cpu()
