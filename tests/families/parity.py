"""Our sampler beside the pipeline's own call, from the same noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

from danceopd.families import Example, Teacher, load_family
from danceopd.families.pretrained import PretrainedFamily
from danceopd.flow import rollout
from tests.families import tiny
from tests.families.tiny.calls import sample, small_sources, sources_of

STEPS = 3
RESOLUTION = 64
"""Of the family, so that it takes the sources as they are."""


@cache
def folder_of(kind: str) -> Path:
    return tiny.save(kind, Path(mkdtemp()) / kind)


@cache
def pipeline_of(kind: str) -> DiffusionPipeline:
    return tiny.load(folder_of(kind))


@cache
def family_of(kind: str) -> PretrainedFamily:
    family = load_family(folder_of(kind), resolution=RESOLUTION)
    assert isinstance(family, PretrainedFamily)
    return family


def as_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def theirs(
    kind: str,
    prompts: str | list[str],
    size: tuple[int, int],
    source: Image.Image | None = None,
    seed: int = 0,
    **guidance: Any,
) -> Tensor:
    """Latents of the pipeline's own call, in the pipeline's own layout."""
    image = None if source is None else sources_of(kind, source)
    return sample(pipeline_of(kind), prompts, size=size, source=image, steps=STEPS, seed=seed, **guidance)


def ours(
    kind: str,
    prompts: Sequence[str],
    size: tuple[int, int],
    sources: Sequence[Image.Image] = (),
    seed: int = 0,
    *,
    guidance_scale: float = 1.0,
    guidance_vector: float | None = None,
    noise_shape: Callable[[tuple[int, ...]], tuple[int, ...]] = lambda shape: shape,
) -> Tensor:
    """Latents [B, C, h, w] of our rollout, from the noise that the pipeline draws for the seed."""
    examples = [Example(prompt, tuple(map(as_tensor, sources)), size=size) for prompt in prompts]
    shape = family_of(kind).shape(examples[0])
    drawn = noise_shape((len(prompts), *shape))
    noise = torch.randn(drawn, generator=torch.Generator().manual_seed(seed)).view(len(prompts), *shape)
    return from_noise(kind, examples, noise, guidance_scale, guidance_vector)


def from_noise(
    kind: str,
    examples: Sequence[Example],
    noise: Tensor,
    guidance_scale: float = 1.0,
    guidance_vector: float | None = None,
) -> Tensor:
    """Latents [B, C, h, w] of our rollout from the given noise, of the same shape."""
    family = family_of(kind)
    field = family.teacher(Teacher("base", guidance_scale=guidance_scale, guidance_vector=guidance_vector))
    with small_sources():  # as around the pipeline's call
        condition = family.encode(examples)
    return rollout(field, noise, family.grid(STEPS, noise.shape[1:]), condition).sample


def error(value: Tensor, reference: Tensor) -> float:
    """Largest difference over the largest value."""
    assert value.shape == reference.shape
    return float((value - reference).abs().max() / reference.abs().max())


def decoding_error(kind: str, latents: Tensor, images: Tensor) -> float:
    """Largest difference of our decoded latents from a pipeline's images, [B, 3, H, W] in [0, 1].

    Our images are also checked after rounding to 8 bits.
    """
    family = family_of(kind)
    assert (family.decode(latents) / 255 - images).abs().max() < 0.501 / 255
    with torch.no_grad():
        decoded = family.conventions.decode(pipeline_of(kind), latents)
    return error((decoded / 2 + 0.5).clamp(0, 1), images)
