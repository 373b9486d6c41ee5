"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of the run.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Settings that replace the file's, such as max_steps=100 or teachers.0.guidance_scale=4.5.",
        show_default=False,
    ),
]
Model = Annotated[
    str,
    typer.Argument(
        metavar="RUN|EXPERT",
        help="A run's folder (its newest checkpoint is read) or one of its checkpoints, full weights, an "
        "expert's name, or base.",
    ),
]
FamilyName = Annotated[
    str,
    typer.Option(
        "--family",
        help="Family of an EXPERT: shapesworld, a folder or a Hub repository; a RUN knows its own.",
    ),
]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda or cuda:N; by default the run's own, and cpu for an EXPERT.")
]
Steps = Annotated[int, typer.Option(min=1, help="Euler steps from noise to image.")]
Guidance = Annotated[
    float, typer.Option(min=0.0, help="Classifier-free guidance on top of the model; 1 is none.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the starting noise.")]
