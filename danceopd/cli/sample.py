"""``danceopd sample``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from danceopd.cli.opening import open_model
from danceopd.cli.options import Device, FamilyName, Guidance, Model, Seed, Steps


def sample(
    model: Model,
    prompt: Annotated[
        list[str], typer.Option(help="What to draw, or how to edit --source; may be repeated.")
    ],
    source: Annotated[
        list[Path] | None,
        typer.Option(help="Image to edit; may be repeated where the family takes several."),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Pixels, such as 768x1024; the family's choice when not given."),
    ] = None,
    steps: Steps = 16,
    guidance_scale: Guidance = 1.0,
    seed: Seed = 0,
    out: Annotated[
        Path,
        typer.Option(
            help="A .png file, where several images stand side by side, or a folder of one PNG each."
        ),
    ] = Path("sample.png"),
    zoom: Annotated[
        int | None, typer.Option(min=1, help="Enlarge each pixel N times; by default to 256 pixels or more.")
    ] = None,
    family: FamilyName = "shapesworld",
    lora: Annotated[str | None, typer.Option(help="LoRA to put on an EXPERT, which may be base.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32 or bfloat16; float32 by default, and a RUN knows its own.")
    ] = None,
    resolution: Annotated[
        int | None, typer.Option(min=16, help="Side of a square image of an EXPERT; a RUN knows its own.")
    ] = None,
    device: Device = None,
) -> None:
    """Draw images from a trained student or from an expert.

    Example: [bold]danceopd sample runs/x --prompt "red circle on grey"[/bold]
    """
    import danceopd
    from danceopd.pictures import check_pngs, read_png, write_pngs

    check_pngs(out)
    pixels = None if size is None else _pixels(size)
    sources = [read_png(path) for path in source or ()]
    loaded, field = open_model(model, family, device, lora=lora, dtype=dtype, resolution=resolution)
    images = danceopd.sample(
        loaded,
        field,
        prompt,
        sources=[sources] * len(prompt),
        size=pixels,
        num_steps=steps,
        guidance_scale=guidance_scale,
        seed=seed,
    )
    for path in write_pngs(images, out, zoom):
        typer.echo(path)


def _pixels(size: str) -> tuple[int, int]:
    height, _, width = size.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise ValueError(f"--size '{size}' must be height x width in pixels, such as 768x1024.")
    return int(height), int(width)
