"""``danceopd eval``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from danceopd.cli.opening import open_model
from danceopd.cli.options import Device, Guidance, Model, Seed, Steps


def evaluate(
    model: Model,
    ground: Annotated[
        list[str] | None,
        typer.Option(
            help="Ground to score: t2i, local, global or edit; may be repeated; the first three by default."
        ),
    ] = None,
    prompts: Annotated[int, typer.Option(min=1, help="Test prompts per category.")] = 48,
    steps: Steps = 8,
    guidance_scale: Guidance = 1.0,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="JSON file of the scores; printed when not given.")] = None,
    device: Device = None,
) -> None:
    """Score a trained student or an expert on ShapesWorld, exactly and per category."""
    from danceopd import shapesworld
    from danceopd.files import check_writable, write_whole
    from danceopd.settings import nearest

    grounds = ground or ["t2i", "local", "global"]
    for name in grounds:
        if name not in shapesworld.GROUNDS:
            raise ValueError(f"ground '{name}' is unknown: {nearest(name, shapesworld.GROUNDS)}")
    if out is not None:
        check_writable(out)
    family, field = open_model(model, "shapesworld", device)
    if not isinstance(family, shapesworld.ShapesWorldFamily):
        raise ValueError(f"'{model}' is of the family '{family.name}', but only ShapesWorld can be scored.")
    scores = shapesworld.evaluate(
        family, field, grounds, prompts=prompts, num_steps=steps, guidance_scale=guidance_scale, seed=seed
    )
    text = json.dumps(scores.to_dict(), indent=2)
    if out is None:
        typer.echo(text)
    else:
        write_whole(out, f"{text}\n".encode())
