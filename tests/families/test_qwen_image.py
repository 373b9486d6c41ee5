"""Qwen-Image and its Edit and Edit-Plus give the latents and images of diffusers' own pipelines.

The edit pipelines are called with one prompt at a time: Edit-Plus refuses more, and Edit puts a place for an
image into each prompt but takes one image only. A batch of ours must then equal its rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
import torch
from PIL import Image

from danceopd.families import Example
from danceopd.families.conventions import pack
from tests.families.parity import (
    as_tensor,
    decode_errors,
    error,
    family_of,
    ours,
    pipeline_of,
    rolled,
    theirs,
)
from tests.families.tiny.calls import arguments, picture
from tests.families.tiny.processors import without_torchvision
from tests.families.tiny.words import PROMPTS

torch.set_num_threads(1)

ROUNDING = 5e-6
SIZES = ((32, 32), (32, 48))
# Of the area to which `small_sources` lets the pipelines scale, and with sides that this does not change.
SQUARE, TALL, WIDE = picture(1), picture(2, (128, 32)), picture(3, (32, 128))
EDITS = ("qwen-image-edit", "qwen-image-edit-plus")
NOISE = torch.randn(3, 16, 4, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _processor() -> Iterator[None]:
    with without_torchvision():
        yield


def true_cfg(prompts: str | list[str], scale: float) -> dict[str, Any]:
    if scale == 1.0:
        return {}
    negative = " " if isinstance(prompts, str) else [" "] * len(prompts)
    return {"negative_prompt": negative, "true_cfg_scale": scale}


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("scale", [1.0, 3.5])
def test_text_to_image_is_the_pipelines(scale: float, size: tuple[int, int]) -> None:
    for prompts in ([PROMPTS[0]], list(PROMPTS)):
        reference = theirs("qwen-image", prompts, size, **true_cfg(prompts, scale))
        assert error(pack(ours("qwen-image", prompts, size, guidance_scale=scale)), reference) < ROUNDING


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("scale", [1.0, 3.5])
@pytest.mark.parametrize(
    ("kind", "sources"),
    [
        ("qwen-image-edit", [SQUARE]),
        ("qwen-image-edit", [WIDE]),
        ("qwen-image-edit-plus", [SQUARE]),
        ("qwen-image-edit-plus", [WIDE, SQUARE]),
        ("qwen-image-edit-plus", [SQUARE, TALL, WIDE]),
    ],
    ids=lambda value: value if isinstance(value, str) else len(value),
)
def test_editing_is_the_pipelines(
    kind: str, sources: list[Image.Image], scale: float, size: tuple[int, int]
) -> None:
    given: Any = sources if kind == "qwen-image-edit-plus" else sources[0]
    reference = theirs(kind, PROMPTS[2], size, given, **true_cfg(PROMPTS[2], scale))
    latents = ours(kind, PROMPTS[2:3], size, sources, guidance_scale=scale)
    assert error(pack(latents), reference) < ROUNDING


@pytest.mark.parametrize("scale", [1.0, 3.5])
@pytest.mark.parametrize(
    ("kind", "sources"),
    [
        ("qwen-image-edit", [[SQUARE]] * 3),
        ("qwen-image-edit", [[SQUARE], [TALL], [WIDE]]),
        ("qwen-image-edit-plus", [[SQUARE]] * 3),
        ("qwen-image-edit-plus", [[SQUARE], [TALL, SQUARE], [WIDE]]),
    ],
    ids=["edit-alike", "edit-mixed", "plus-alike", "plus-mixed"],
)
def test_a_batch_of_edits_is_the_pipelines_rows(
    kind: str, sources: list[list[Image.Image]], scale: float
) -> None:
    size = (32, 48)
    examples = [
        Example(prompt, tuple(map(as_tensor, images)), size=size)
        for prompt, images in zip(PROMPTS, sources, strict=True)
    ]
    latents = pack(rolled(kind, examples, NOISE, guidance_scale=scale))
    for row, (prompt, images) in enumerate(zip(PROMPTS, sources, strict=True)):
        given: Any = images if kind == "qwen-image-edit-plus" else images[0]
        start = pack(NOISE[row : row + 1])
        reference = theirs(kind, prompt, size, given, latents=start, **true_cfg(prompt, scale))
        assert error(latents[row : row + 1], reference) < ROUNDING


def test_a_row_does_not_depend_on_the_length_of_its_neighbours_prompts() -> None:
    examples = [Example(prompt, size=(32, 48)) for prompt in PROMPTS]
    together = rolled("qwen-image", examples, NOISE)
    for row, example in enumerate(examples):
        alone = rolled("qwen-image", [example], NOISE[row : row + 1])
        assert error(together[row : row + 1], alone) < ROUNDING


def test_a_prompt_is_cut_where_the_pipeline_cuts_it() -> None:
    prompt = " ".join(["a red circle on a blue square"] * 100)  # of more than 512 tokens
    reference = theirs("qwen-image", prompt, (32, 32))
    assert error(pack(ours("qwen-image", [prompt], (32, 32))), reference) < ROUNDING


class _SeenError(Exception):
    """Ends a pipeline's call at its prompt encoder."""


@pytest.mark.parametrize("kind", EDITS)
@pytest.mark.parametrize("size", [(96, 160), (528, 512)], ids=str)
def test_the_language_model_reads_the_pipelines_copy_of_a_source(kind: str, size: tuple[int, int]) -> None:
    pipeline, source = pipeline_of(kind), picture(4, size)
    with patch.object(pipeline, "encode_prompt", side_effect=_SeenError) as spy:
        with pytest.raises(_SeenError):
            pipeline(**arguments(pipeline, PROMPTS[0], source=source))
        with pytest.raises(_SeenError):
            family_of(kind).conventions.encode_prompt(pipeline, PROMPTS[0], [as_tensor(source)])
    copies = [call.kwargs["image"] for call in spy.call_args_list]
    if kind == "qwen-image-edit-plus":
        copies = [image for images in copies for image in images]
    reference, ours_seen = map(as_tensor, copies)
    assert torch.equal(ours_seen, reference)
    assert ours_seen.shape[1:] != size


@pytest.mark.parametrize("kind", ["qwen-image", *EDITS])
def test_images_are_the_pipelines(kind: str) -> None:
    size, sources = (32, 48), [] if kind == "qwen-image" else [SQUARE]
    images = theirs(kind, PROMPTS[0], size, SQUARE, output_type="pt")
    difference, levels = decode_errors(kind, ours(kind, PROMPTS[:1], size, sources), images)
    assert difference < ROUNDING
    assert levels <= 1


def test_edit_plus_without_a_source_listens_to_its_prompt() -> None:
    first, second = (ours("qwen-image-edit-plus", [prompt], (32, 32)) for prompt in PROMPTS[:2])
    assert error(first, second) > 0.01


def test_edit_needs_a_source() -> None:
    with pytest.raises(ValueError, match=r"^sources must hold one image for QwenImageEditPipeline"):
        family_of("qwen-image-edit").encode([Example(PROMPTS[0])])


def test_the_grid_ends_with_the_terminal_sigma() -> None:
    family = family_of("qwen-image")
    assert family.grid(4, (16, 4, 4)).values[-2:] == pytest.approx((0.02, 0.0))
    with pytest.raises(ValueError, match=r"^num_steps=1 gives no grid"):
        family.grid(1, (16, 4, 4))


def test_guidance_of_a_velocity_of_zero_is_zero() -> None:
    zero = torch.zeros(1, 16, 4, 4)
    assert torch.equal(family_of("qwen-image").conventions.combine(zero, zero, 4.0), zero)
