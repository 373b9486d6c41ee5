"""FLUX.1 and Kontext give the latents and the images of diffusers' own pipelines."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from danceopd.families import Example
from danceopd.families.conventions import pack
from tests.families.parity import as_tensor, decode_errors, error, family_of, ours, rolled, theirs
from tests.families.tiny.calls import picture
from tests.families.tiny.words import PROMPTS

torch.set_num_threads(1)

ROUNDING = 5e-6
SIZES = ((32, 32), (32, 48))
KINDS = ("flux1-dev", "flux1-schnell", "flux1-kontext")
TRUE_CFG = 2.0  # more of it magnifies rounding: with 3 a last bit of the noise already moves the end by 2e-6


def compare(
    kind: str,
    prompts: list[str],
    size: tuple[int, int],
    vector: float,
    scale: float,
    source: Image.Image | None = None,
) -> float:
    guidance: dict[str, Any] = {"guidance_scale": vector}
    if scale != 1.0:
        guidance |= {"negative_prompt": [""] * len(prompts), "true_cfg_scale": scale}
    reference = theirs(kind, prompts, size, source, **guidance)
    latents = ours(
        kind,
        prompts,
        size,
        [source] if source else [],
        guidance_scale=scale,
        guidance_vector=None if kind == "flux1-schnell" else vector,
    )
    return error(pack(latents), reference)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("scale", [1.0, TRUE_CFG])
@pytest.mark.parametrize("vector", [1.0, 3.5])
@pytest.mark.parametrize("kind", KINDS)
def test_text_to_image_is_the_pipelines(
    kind: str, vector: float, scale: float, size: tuple[int, int]
) -> None:
    if kind == "flux1-schnell" and vector != 1.0:
        with pytest.raises(ValueError, match=r"takes none"):
            ours(kind, PROMPTS[:1], size, guidance_vector=vector)
        return
    assert compare(kind, [PROMPTS[0]], size, vector, scale) < ROUNDING
    assert compare(kind, list(PROMPTS), size, vector, scale) < ROUNDING


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("scale", [1.0, TRUE_CFG])
@pytest.mark.parametrize("vector", [1.0, 3.5])
def test_editing_is_the_pipelines(vector: float, scale: float, size: tuple[int, int]) -> None:
    image = picture(1, (48, 80))
    assert compare("flux1-kontext", [PROMPTS[0]], size, vector, scale, image) < ROUNDING
    assert compare("flux1-kontext", list(PROMPTS), size, vector, scale, image) < ROUNDING


def test_the_vector_is_the_pipelines_own_when_none_is_asked_for() -> None:
    reference = theirs("flux1-dev", PROMPTS[0], (32, 32))
    assert error(pack(ours("flux1-dev", PROMPTS[:1], (32, 32))), reference) < ROUNDING


def test_rows_with_and_without_a_source_share_a_batch() -> None:
    size, sources = (32, 48), (None, picture(1), picture(2, (48, 80)))
    noise = torch.randn(3, 16, 4, 6, generator=torch.Generator().manual_seed(0))
    examples = [
        Example(prompt, () if image is None else (as_tensor(image),), size=size)
        for prompt, image in zip(PROMPTS, sources, strict=True)
    ]
    latents = pack(rolled("flux1-kontext", examples, noise, guidance_scale=TRUE_CFG))
    for row, (prompt, image) in enumerate(zip(PROMPTS, sources, strict=True)):
        guidance = {"negative_prompt": "", "true_cfg_scale": TRUE_CFG}
        start = pack(noise[row : row + 1])
        reference = theirs("flux1-kontext", prompt, size, image, latents=start, **guidance)
        assert error(latents[row : row + 1], reference) < ROUNDING


@pytest.mark.parametrize("kind", KINDS)
def test_images_are_the_pipelines(kind: str) -> None:
    size = (32, 48)
    images = theirs(kind, list(PROMPTS), size, picture(1), output_type="pt")
    latents = ours(kind, PROMPTS, size, [picture(1)] if kind == "flux1-kontext" else [])
    difference, levels = decode_errors(kind, latents, images)
    assert difference < ROUNDING
    assert levels <= 1


def test_only_kontext_takes_a_source() -> None:
    source = as_tensor(picture(1))
    for kind, most in (("flux1-dev", 0), ("flux1-schnell", 0), ("flux1-kontext", 1)):
        with pytest.raises(ValueError, match=r"sources holds \d images"):
            family_of(kind).encode([Example(PROMPTS[0], (source,) * (most + 1))])
