"""Z-Image and Z-Image Omni give the latents and images of diffusers' own pipelines."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from danceopd.families import Example, load_family
from tests.families.parity import (
    STEPS,
    as_tensor,
    decode_errors,
    decoded,
    encoded_alone,
    error,
    family_of,
    folder_of,
    ours,
    pipeline_of,
    same_conditions,
    worst_row,
)
from tests.families.tiny.calls import arguments, picture, sample
from tests.families.tiny.words import PROMPTS

torch.set_num_threads(1)

ROUNDING = 5e-6
BFLOAT16 = 2.0**-8
"""Omni decodes in bfloat16, the pipeline a whole batch and we one image after the other."""
SIZES = ((32, 32), (32, 48))
GUIDANCE = (0.0, 2.5)
BATCHES = ([PROMPTS[0]], list(PROMPTS[:3]))
OMNI = "z-image-omni"


def rounding(scale: float) -> float:
    """Guidance weighs two velocities by s and s - 1, and their rounding with them.

    At s = 3.5, noise that is changed by 1e-7 of itself gives latents that differ by 7e-6.
    """
    return ROUNDING * (2 * scale - 1)


def compare(
    kind: str, prompts: list[str], size: tuple[int, int], guidance: float, *images: Image.Image
) -> float:
    call = {"size": size, "steps": STEPS, "guidance_scale": guidance, "source": list(images) or None}
    # A list is changed in place by the chat template, so the pipeline gets its own; `sample` copies it.
    reference = sample(pipeline_of(kind), prompts, **call)
    return error(ours(kind, prompts, size, images, guidance_scale=guidance + 1), reference)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("guidance", GUIDANCE)
@pytest.mark.parametrize("kind", ["z-image", OMNI])
def test_text_to_image_is_the_pipelines(kind: str, guidance: float, size: tuple[int, int]) -> None:
    for prompts in BATCHES:
        assert compare(kind, prompts, size, guidance) < rounding(guidance + 1)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("guidance", GUIDANCE)
def test_editing_is_the_pipelines(guidance: float, size: tuple[int, int]) -> None:
    for prompts in BATCHES:
        assert compare(OMNI, prompts, size, guidance, picture(1)) < rounding(guidance + 1)
        assert compare(OMNI, prompts, size, guidance, picture(1), picture(2)) < rounding(guidance + 1)


def test_an_oblong_source_is_encoded_as_by_the_pipeline() -> None:
    pipeline, source = pipeline_of(OMNI), picture(2, (64, 96))
    row = load_family(folder_of(OMNI), resolution=96).encode([Example("", (as_tensor(source),))]).rows[0]
    there = {"batch_size": 1, "device": "cpu", "dtype": torch.float32}
    with torch.no_grad():
        pixels = pipeline.image_processor.preprocess(source)
        assert torch.equal(row.sources[0]["latent"], pipeline.prepare_image_latents([pixels], **there)[0][0])
        features = pipeline.prepare_siglip_embeds([source], **there)[0][0]
    assert features.shape[0] != features.shape[1]
    assert error(row.sources[0]["features"], features) < ROUNDING


@pytest.mark.parametrize("kind", ["z-image", OMNI])
def test_the_levels_are_the_pipelines_to_the_last_bit(kind: str) -> None:
    pipeline, family = pipeline_of(kind), family_of(kind)
    for steps in (1, 3, 28, 50):
        pipeline(**arguments(pipeline, PROMPTS[1], steps=steps, guidance_scale=0.0))
        shape = family.conventions.shape(32, 32)
        assert list(family.grid(steps, shape).values) == pipeline.scheduler.sigmas.tolist()


@pytest.mark.parametrize(("kind", "tolerance", "most"), [("z-image", ROUNDING, 1), (OMNI, BFLOAT16, 2)])
def test_images_are_the_pipelines(kind: str, tolerance: float, most: int) -> None:
    latents, images = decoded(kind, list(PROMPTS[:2]), SIZES[1])
    difference, levels = decode_errors(kind, latents, images)
    assert difference < tolerance
    assert levels <= most


def mixed(kind: str) -> list[Example]:
    """Prompts of different length; for Omni one of them with none, one and two sources."""
    sources = [as_tensor(picture(1)), as_tensor(picture(2, (32, 64)))] if kind == OMNI else []
    prompts = [PROMPTS[0], PROMPTS[2], PROMPTS[1], PROMPTS[0], PROMPTS[0]]
    numbers = (0, 1, 2, 2, 1)
    return [Example(p, tuple(sources[:n]), size=SIZES[1]) for p, n in zip(prompts, numbers, strict=True)]


@pytest.mark.parametrize("kind", ["z-image", OMNI])
def test_a_batch_is_its_rows(kind: str) -> None:
    examples = mixed(kind)
    assert same_conditions(family_of(kind).encode(examples), encoded_alone(kind, examples))
    assert worst_row(kind, examples) < ROUNDING
    assert worst_row(kind, examples, guidance_scale=2.0) < rounding(2.0)


@pytest.mark.parametrize("kind", ["z-image", OMNI])
def test_rows_of_the_cache_are_the_encoded_ones(kind: str, tmp_path: Path) -> None:
    examples = mixed(kind)
    (prepared,) = family_of(kind).prepare([examples], tmp_path)
    assert same_conditions(prepared.condition(range(len(examples))), family_of(kind).encode(examples))


def test_rows_of_different_length_share_a_forward() -> None:
    family = family_of("z-image")
    condition = family.encode(mixed("z-image"))
    assert len({row.prompt["piece0"].shape for row in condition.rows}) > 1
    assert len(list(condition.groups(family.conventions.layout))) == 1


def test_text_to_image_alone_takes_no_sources() -> None:
    with pytest.raises(ValueError, match="has no editing"):
        family_of("z-image").encode([Example(PROMPTS[0], (as_tensor(picture(1)),))])
