"""Which family speaks for which checkpoint."""

from __future__ import annotations

from danceopd.families.checkpoint import ModelCheckpoint
from danceopd.families.conventions import Conventions
from danceopd.families.flux1 import Flux1
from danceopd.families.flux2 import Flux2
from danceopd.families.qwen_image import QwenImage
from danceopd.families.sd3 import StableDiffusion3
from danceopd.families.z_image import ZImage

_BUILT_IN: tuple[type[Conventions], ...] = (StableDiffusion3, Flux1, Flux2, QwenImage, ZImage)
_CONVENTIONS = {pipeline: kind for kind in _BUILT_IN for pipeline in kind.pipelines}


def register(conventions: type[Conventions]) -> type[Conventions]:
    """Let `load_family` know a family of your own, by the pipeline classes it names; usable as a decorator.

    Raises:
        ValueError: another family speaks for one of them already.
    """
    for pipeline in conventions.pipelines:
        known = _CONVENTIONS.setdefault(pipeline, conventions)
        if known is not conventions:
            raise ValueError(
                f"{conventions.__name__} names the pipeline {pipeline}, which {known.__name__} speaks for: "
                "name others."
            )
    return conventions


def conventions_of(checkpoint: ModelCheckpoint) -> Conventions:
    """The conventions of a checkpoint's family.

    Raises:
        ValueError: no family speaks for its pipeline; the message lists those that are known.
    """
    known = _CONVENTIONS
    if checkpoint.pipeline_name not in known:
        families = "; ".join(
            f"{kind.name} ({', '.join(kind.pipelines)})" for kind in dict.fromkeys(known.values())
        )
        raise ValueError(
            f"'{checkpoint.name}' is of the pipeline {checkpoint.pipeline_name}, which no family here speaks "
            f"for: known are {families}; docs/adding-a-family.md tells how to add one."
        )
    return known[checkpoint.pipeline_name](checkpoint)
