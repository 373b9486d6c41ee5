"""Stable Diffusion 3 and FLUX.2 give the latents of diffusers' own pipelines."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from danceopd.families import Example
from tests.families.parity import (
    as_tensor,
    decode_errors,
    decoded,
    encoded_alone,
    error,
    family_of,
    ours,
    pipeline_of,
    same_conditions,
    theirs,
    worst_row,
)
from tests.families.tiny.calls import picture
from tests.families.tiny.words import PROMPTS

torch.set_num_threads(1)

ROUNDING = 5e-6
SIZES = ((32, 32), (32, 48))


def in_their_layout(kind: str, latents: Tensor) -> Tensor:
    if kind == "flux2":
        return latents.flatten(2).mT
    if kind == "flux2-klein":
        pipeline: Any = pipeline_of(kind)
        statistics = pipeline.vae.bn
        std = (statistics.running_var + pipeline.vae.config.batch_norm_eps).sqrt()
        return pipeline._unpatchify_latents(
            latents * std.view(1, -1, 1, 1) + statistics.running_mean.view(1, -1, 1, 1)
        )
    return latents


def compare(kind: str, prompts: list[str], size: tuple[int, int], scale: float, edit: bool = False) -> float:
    source = picture(1) if edit else None
    reference = theirs(kind, prompts, size, source, guidance_scale=scale)
    guidance: dict[str, Any] = {"guidance_vector" if kind == "flux2" else "guidance_scale": scale}
    latents = ours(kind, prompts, size, [source] if source else [], **guidance)
    return error(in_their_layout(kind, latents), reference)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("scale", [1.0, 3.5])
@pytest.mark.parametrize("kind", ["sd3", "flux2", "flux2-klein"])
def test_text_to_image_is_the_pipelines(kind: str, scale: float, size: tuple[int, int]) -> None:
    assert compare(kind, [PROMPTS[0]], size, scale) < ROUNDING
    assert compare(kind, list(PROMPTS[:3]), size, scale) < ROUNDING


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("scale", [1.0, 3.5])
@pytest.mark.parametrize("kind", ["flux2", "flux2-klein"])
def test_editing_is_the_pipelines(kind: str, scale: float, size: tuple[int, int]) -> None:
    assert compare(kind, [PROMPTS[0]], size, scale, edit=True) < ROUNDING
    assert compare(kind, list(PROMPTS[:3]), size, scale, edit=True) < ROUNDING


@pytest.mark.parametrize("kind", ["sd3", "flux2", "flux2-klein"])
def test_images_are_the_pipelines(kind: str) -> None:
    height, width = SIZES[1]
    latents, images = decoded(kind, list(PROMPTS[:2]), (height, width))
    if kind != "sd3":  # the loop has tokens
        latents = latents.mT.reshape(2, *family_of(kind).conventions.shape(height, width))
    difference, levels = decode_errors(kind, latents, images)
    assert difference < ROUNDING
    assert levels <= 1


@pytest.mark.parametrize("kind", ["sd3", "flux2", "flux2-klein"])
def test_a_batch_is_its_rows(kind: str) -> None:
    pictures = [as_tensor(picture(1)), as_tensor(picture(2, (32, 64)))]
    most = 0 if kind == "sd3" else 2
    examples = [
        Example(prompt, tuple(pictures[: min(number, most)]), size=SIZES[1])
        for number, prompt in enumerate(PROMPTS[:3])
    ]
    assert same_conditions(family_of(kind).encode(examples), encoded_alone(kind, examples))
    assert worst_row(kind, examples) < ROUNDING
