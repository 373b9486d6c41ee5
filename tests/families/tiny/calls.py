"""Calling a tiny pipeline, and what its transformer was given and gave."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus
from PIL import Image
from torch import Tensor

EDITS = ("flux1-kontext", "flux2", "flux2-klein", "qwen-image-edit", "qwen-image-edit-plus", "z-image-omni")
"""Kinds that take sources."""
NEEDS_SOURCE = ("qwen-image-edit", "qwen-image-edit-plus")
SOURCE_SIZE = (64, 64)
"""Of a source made here: FLUX.2's pipelines refuse less."""


@dataclass(frozen=True)
class Forward:
    """One call of a transformer."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Tensor | list[Tensor]


def picture(seed: int, size: tuple[int, int] = SOURCE_SIZE) -> Image.Image:
    """A smooth random picture, ``size`` is (height, width)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC)


def sources_of(kind: str, image: Image.Image) -> Image.Image | list[Image.Image] | None:
    """``image`` in the form that the kind's pipeline wants its source, None for one that takes no source."""
    if kind not in EDITS:
        return None
    return [image] if kind == "z-image-omni" else image


@contextmanager
def small_sources(area: int = SOURCE_SIZE[0] * SOURCE_SIZE[1]) -> Iterator[None]:
    """Let the Qwen-Image-Edit pipelines resize their sources to ``area`` pixels instead of a megapixel."""
    original = pipeline_qwenimage_edit.calculate_dimensions
    original_plus = pipeline_qwenimage_edit_plus.calculate_dimensions
    with (
        patch.object(pipeline_qwenimage_edit, "calculate_dimensions", lambda _, ratio: original(area, ratio)),
        patch.object(
            pipeline_qwenimage_edit_plus, "calculate_dimensions", lambda _, ratio: original_plus(area, ratio)
        ),
    ):
        yield


def arguments(
    pipeline: DiffusionPipeline,
    prompt: str | Sequence[str],
    *,
    size: tuple[int, int] = (32, 32),
    steps: int = 3,
    source: Image.Image | list[Image.Image] | None = None,
    seed: int = 0,
    **more: Any,
) -> dict[str, Any]:
    """Keywords for a pipeline's own call, which then returns latents: ``size`` is (height, width)."""
    call = {
        "prompt": prompt if isinstance(prompt, str) else list(prompt),
        "height": size[0],
        "width": size[1],
        "num_inference_steps": steps,
        "generator": torch.Generator().manual_seed(seed),
        "output_type": "latent",
    }
    known = inspect.signature(pipeline.__call__).parameters
    if source is not None:
        call["image"] = source
    if "max_area" in known:  # Kontext: the size is rewritten to this area, a source to one of a list of sizes
        call |= {"max_area": size[0] * size[1], "_auto_resize": False}
    if "true_cfg_scale" in known and "negative_prompt" not in more:  # else Qwen-Image warns that it has none
        call["true_cfg_scale"] = 1.0
    return {**call, **more}


def sample(pipeline: DiffusionPipeline, prompt: str | Sequence[str], **call: Any) -> Tensor:
    """The latents of the pipeline's own call, in the pipeline's own layout."""
    with small_sources():
        return pipeline(**arguments(pipeline, prompt, **call)).images


def forwards(pipeline: DiffusionPipeline, prompt: str | Sequence[str], **call: Any) -> list[Forward]:
    """Every call of the transformer while the pipeline samples."""
    seen: list[Forward] = []

    def keep(module: object, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        seen.append(Forward(args, kwargs, output[0]))

    handle = pipeline.transformer.register_forward_hook(keep, with_kwargs=True)
    try:
        sample(pipeline, prompt, **call)
    finally:
        handle.remove()
    return seen


@torch.no_grad()
def again(pipeline: DiffusionPipeline, forward: Forward, **changes: Any) -> Tensor:
    """The transformer's output for the inputs of ``forward`` with some replaced, as one tensor."""
    return stacked(pipeline.transformer(*forward.args, **{**forward.kwargs, **changes})[0])


def stacked(output: Tensor | list[Tensor]) -> Tensor:
    return output if isinstance(output, Tensor) else torch.stack(list(output))


def difference(value: Tensor, reference: Tensor) -> float:
    """Relative L2 distance."""
    return float(((value - reference).norm() / reference.norm()).detach())
