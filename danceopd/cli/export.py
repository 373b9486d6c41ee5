"""``danceopd export``."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from danceopd.cli.options import Device


class Format(str, Enum):
    """What `danceopd.families.export` can write; said again because the help must not wait for torch."""

    diffusers = "diffusers"
    peft = "peft"
    comfyui = "comfyui"


def export(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run's folder; its newest checkpoint is read.")
    ],
    format: Annotated[
        Format,
        typer.Option(
            help="For load_lora_weights of diffusers (a whole pipeline's folder of a full student), for PEFT "
            "or for ComfyUI."
        ),
    ] = Format.diffusers,
    out: Annotated[
        Path | None, typer.Option(help="New folder of the export; RUN/export-FORMAT when not given.")
    ] = None,
    device: Device = None,
) -> None:
    """Write a run's student in a format that others load, and prove that they load it.

    The export is loaded back in a fresh process and its velocity compared with the student's.
    Students of ShapesWorld have one format alone, student.safetensors, which is in the run's folder when its
    training has ended.
    """
    from danceopd.families.export import ExportError, export_student
    from danceopd.families.pretrained import PretrainedFamily
    from danceopd.training import load_student

    loaded = load_student(run, device=device)
    if not isinstance(loaded.family, PretrainedFamily):
        raise ValueError(
            f"'{run}' is of the family '{loaded.family.name}', whose students have one format alone, "
            f"written as training ends: take the file in its folder in place of --format {format.value}."
        )
    try:
        exported = export_student(
            loaded.family, loaded.student, out or run / f"export-{format.value}", format.value
        )
    except ExportError as error:
        typer.echo(f"danceopd: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(
        f"loaded back with an error of {exported.error:.1e}, where the base is {exported.effect:.1e} away",
        err=True,
    )
    typer.echo(exported.path)
