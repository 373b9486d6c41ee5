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
from danceopd.families.conditions import Encoded, RowsCondition
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
    guidance = {"guidance_scale": guidance_scale, "guidance_vector": guidance_vector}
    return rolled(kind, examples, noise, **guidance)


def rolled(kind: str, examples: Sequence[Example], noise: Tensor, **guidance: Any) -> Tensor:
    """Latents of our rollout of examples of one size, from `noise` [B, C, h, w]."""
    family = family_of(kind)
    field = family.teacher(Teacher("base", **guidance))
    with small_sources():  # as around the pipeline's call
        condition = family.encode(examples)
    return rollout(field, noise, family.grid(STEPS, noise.shape[1:]), condition).sample


def decoded(kind: str, prompts: list[str], size: tuple[int, int], **call: Any) -> tuple[Tensor, Tensor]:
    """What the pipeline's own call decodes, in its loop's layout, and the images in 0 .. 1 made of it."""
    seen: list[Tensor] = []

    def keep(_: object, step: int, time: object, state: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(state["latents"])
        return {}

    options = {"steps": STEPS, "output_type": "pt", "callback_on_step_end": keep}
    images = sample(pipeline_of(kind), prompts, size=size, **options, **call)
    return seen[-1], images


def decode_errors(kind: str, latents: Tensor, images: Tensor) -> tuple[float, int]:
    """Of our decoder, given [B, C, h, w]: the largest difference in 0 .. 1, and in levels of uint8."""
    family = family_of(kind)
    with torch.no_grad():
        ours = family.conventions.decode(pipeline_of(kind), latents).float().div(2).add(0.5).clamp(0, 1)
    levels = family.decode(latents).int() - images.float().mul(255).round().int()
    return error(ours, images.float()), int(levels.abs().max())


def same_conditions(first: RowsCondition, second: RowsCondition) -> bool:
    """Whether two conditions hold the same rows, bit for bit."""

    def parts(condition: RowsCondition) -> list[Encoded]:
        return [part for row in condition.rows for part in (row.prompt, row.negative, *row.sources)]

    pairs = list(zip(parts(first), parts(second), strict=True))
    return all(a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) for a, b in pairs)


def encoded_alone(kind: str, examples: Sequence[Example]) -> RowsCondition:
    """Each example encoded by itself."""
    family = family_of(kind)
    return RowsCondition(tuple(family.encode([example]).rows[0] for example in examples))


def worst_row(kind: str, examples: Sequence[Example], **guidance: Any) -> float:
    """The largest error of a batch of examples of one size beside each of them rolled out alone."""
    shape = family_of(kind).shape(examples[0])
    noise = torch.randn((len(examples), *shape), generator=torch.Generator().manual_seed(1))
    batch = rolled(kind, examples, noise, **guidance)
    alone = [rolled(kind, [example], noise[i : i + 1], **guidance) for i, example in enumerate(examples)]
    return max(error(batch[i : i + 1], one) for i, one in enumerate(alone))


def error(value: Tensor, reference: Tensor) -> float:
    """Largest difference over the largest value."""
    assert value.shape == reference.shape
    return float((value - reference).abs().max() / reference.abs().max())
