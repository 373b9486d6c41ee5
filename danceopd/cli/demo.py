"""``danceopd demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    output_dir: Annotated[
        Path, typer.Option("--out", help="Folder of scores, pictures and the report.")
    ] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of training and scoring.")] = 0,
) -> None:
    """Distil the shipped ShapesWorld experts into one student and print the scoreboard, within minutes."""
    from danceopd.shapesworld.demo import run_demo

    run_demo(output_dir=output_dir, seed=seed)
