"""``danceopd export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from danceopd.cli.options import Device


def export(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run's folder; its newest checkpoint is read.")
    ],
    format: Annotated[
        str,
        typer.Option(
            help="diffusers (a file for load_lora_weights, or a pipeline's folder), peft or comfyui."
        ),
    ] = "diffusers",
    out: Annotated[
        Path | None, typer.Option(help="New folder of the export; RUN/export-FORMAT when not given.")
    ] = None,
    device: Device = None,
) -> None:
    """Write a run's student in a format that others load, and prove that they load it.

    The export is loaded back in a fresh process and its velocity compared with the student's.
    """
    from danceopd.families.export import ExportError, export_student
    from danceopd.families.pretrained import PretrainedFamily
    from danceopd.training import load_student

    loaded = load_student(run, device=device)
    if not isinstance(loaded.family, PretrainedFamily):
        raise ValueError(
            f"'{run}' is of the family '{loaded.family.name}', whose students are exported as training ends: "
            "take the file in its folder."
        )
    try:
        exported = export_student(
            loaded.family, loaded.student, out or run / f"export-{format}", cast(Any, format)
        )
    except ExportError as error:
        typer.echo(f"danceopd: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(
        f"loaded back with an error of {exported.error:.1e}, where the base is {exported.effect:.1e} away",
        err=True,
    )
    typer.echo(exported.path)
