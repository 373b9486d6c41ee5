"""The family and the field that a command works on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from danceopd.families import Family
    from danceopd.flow import VelocityField
    from danceopd.training import RunConfig


def open_run(config: Path, overrides: list[str] | None) -> tuple[RunConfig, Family]:
    """The run that a config file describes, with `overrides` like max_steps=100, and its family."""
    import torch

    from danceopd.families import load_family
    from danceopd.training import load_run_config

    run = load_run_config(config, overrides or ())
    dtype = getattr(torch, run.dtype)
    return run, load_family(run.family, dtype=dtype, device=run.device, resolution=run.resolution)


def open_model(
    model: str,
    family: str,
    device: str | None,
    *,
    lora: str | None = None,
    dtype: str | None = None,
    resolution: int | None = None,
) -> tuple[Family, VelocityField]:
    """The field that a command line's RUN|EXPERT names, and its family.

    Args:
        model: a run's folder or that of one of its checkpoints, full weights, an expert's name or ``base``.
        family: of an expert, as are the following but `device`.
        device: the run's own when None, and cpu for an expert.
        lora: to put on the expert.
        dtype: of the model; float32 when None.
        resolution: side of a square image.

    Raises:
        ValueError: what belongs to an expert is given for a run, or nothing can be loaded.
    """
    import torch

    from danceopd.families import Teacher, load_family
    from danceopd.training import load_student
    from danceopd.training.loading import run_of
    from danceopd.training.run_folder import CONFIG

    # A checkpoint's file of weights would do as an expert's, but without the running mean.
    if (run_of(Path(model))[0] / CONFIG).is_file():
        for option, value in (("lora", lora), ("dtype", dtype), ("resolution", resolution)):
            if value is not None:
                raise ValueError(f"--{option} {value} is for an EXPERT, but '{model}' is a run: drop it.")
        student = load_student(model, device=device)
        typer.echo(f"{model}: {student.step} of {student.config.max_steps} updates", err=True)
        return student.family, student.field
    if dtype not in (None, "float32", "bfloat16"):
        raise ValueError(f"--dtype '{dtype}' is unknown: use float32 or bfloat16.")
    loaded = load_family(
        family, dtype=getattr(torch, dtype or "float32"), device=device or "cpu", resolution=resolution
    )
    checkpoint = None if model == "base" else model
    return loaded, loaded.teacher(Teacher(model, checkpoint=checkpoint, lora=lora))
