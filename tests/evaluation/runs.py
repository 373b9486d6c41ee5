"""A run on a tiny FLUX.1 Kontext: two experts for it, and a student of one update."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import torch

from danceopd.families import StudentConfig, Teacher, load_family
from danceopd.training import DanceOPDTrainer, Route, RunConfig
from tests.families import tiny
from tests.families.parity import RESOLUTION, folder_of
from tests.families.tiny.calls import picture
from tests.families.tiny.loras import make_lora

KIND = "flux1-kontext"


@cache
def run_folder() -> Path:
    """The run's folder; nobody may change it."""
    folder = Path(mkdtemp(prefix="tiny-run-"))
    transformer = tiny.build(KIND).transformer
    loras = [make_lora(transformer, folder / f"lora{seed}", seed=seed).path for seed in (1, 2)]
    picture(0, (64, 64)).save(folder / "source.png")
    (folder / "t2i.csv").write_text("prompt\na red cat\n")
    (folder / "edits.csv").write_text("prompt,source\nmake it red,source.png\n")
    config = RunConfig(
        family=str(folder_of(KIND)),
        output_dir=folder / "run",
        resolution=RESOLUTION,
        teachers=[Teacher("painter", lora=str(loras[0])), Teacher("editor", lora=str(loras[1]), scale=0.8)],
        routes=[
            Route("painter", data=str(folder / "t2i.csv")),
            Route("editor", data=str(folder / "edits.csv")),
        ],
        student=StudentConfig(rank=4, init="painter"),
        max_steps=1,
        warmup_steps=0,
        batch_size=1,
        gradient_accumulation_steps=1,
        num_rollout_steps=2,
        learning_rate=1e-3,
        progress=False,
    )
    family = load_family(config.family, dtype=torch.bfloat16, resolution=RESOLUTION)
    DanceOPDTrainer(family=family, teachers=config.teachers, routes=config.routes, config=config).train()
    return folder / "run"
