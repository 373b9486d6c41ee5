"""Sources get the sizes that each family's own pipeline gives them, up to our crop to shared sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from diffusers.pipelines.flux.pipeline_flux_kontext import PREFERRED_KONTEXT_RESOLUTIONS
from diffusers.pipelines.flux2.image_processor import Flux2ImageProcessor
from diffusers.pipelines.qwenimage.pipeline_qwenimage_edit import calculate_dimensions
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from danceopd.families import Example, load_family
from danceopd.families.fitting import source_fit
from danceopd.families.pretrained import PretrainedFamily
from tests.families.parity import as_tensor, family_of, folder_of
from tests.families.tiny.calls import EDITS, picture, small_sources
from tests.families.tiny.processors import without_torchvision

torch.set_num_threads(1)

MEGAPIXEL = 1024 * 1024
UP = ("flux1-kontext", "qwen-image-edit", "qwen-image-edit-plus")
Size = tuple[int, int]


@pytest.fixture(autouse=True, scope="module")
def smaller_and_without_torchvision() -> Iterator[None]:
    with small_sources(), without_torchvision():
        yield


def at_full_size(kind: str) -> PretrainedFamily:
    family = load_family(folder_of(kind), resolution=1024)
    assert isinstance(family, PretrainedFamily)
    return family


def kontext(height: int, width: int) -> Size:
    _, wide, tall = min((abs(width / height - w / h), w, h) for w, h in PREFERRED_KONTEXT_RESOLUTIONS)
    return tall, wide


def qwen(height: int, width: int) -> Size:
    wide, tall, _ = calculate_dimensions(MEGAPIXEL, width / height)
    return tall, wide


def others(height: int, width: int) -> Size:
    """FLUX.2 and Z-Image Omni."""
    if height * width > MEGAPIXEL:
        width, height = Flux2ImageProcessor._resize_to_target_area(Image.new("1", (width, height))).size
    return height // 16 * 16, width // 16 * 16


PIPELINES: dict[str, Callable[[int, int], Size]] = {
    "flux1-kontext": kontext,
    "flux2": others,
    "flux2-klein": others,
    "qwen-image-edit": qwen,
    "qwen-image-edit-plus": qwen,
    "z-image-omni": others,
}


def test_every_family_that_edits_has_its_pipeline_here() -> None:
    assert PIPELINES.keys() == set(EDITS)


@pytest.mark.parametrize("kind", EDITS)
@given(long=st.integers(64, 3000), ratio=st.floats(1.0, 2.0), upright=st.booleans())
def test_at_full_resolution_sources_have_the_pipelines_sizes(
    kind: str, long: int, ratio: float, upright: bool
) -> None:
    size = (long, round(long / ratio)) if upright else (round(long / ratio), long)
    about = family_of(kind).conventions
    ours = source_fit(*size, about.sizes(1024), about.multiple, scales_up=about.scales_up).cropped
    theirs = PIPELINES[kind](*size)
    # Of theirs ours is what is left when the aspect ratio becomes one of ours.
    assert all(abs(our / their - 1) < 0.12 for our, their in zip(ours, theirs, strict=True)), (ours, theirs)
    if kind not in UP and size[0] * size[1] < 0.9 * MEGAPIXEL:
        assert ours == theirs


def test_kontext_has_its_own_sizes() -> None:
    conventions = family_of("flux1-kontext").conventions
    assert set(conventions.sizes(1024)) == {(h, w) for w, h in PREFERRED_KONTEXT_RESOLUTIONS}
    for resolution in (32, 64, 512, 768):
        sizes = conventions.sizes(resolution)
        assert (resolution, resolution) in sizes and all(side % 16 == 0 for size in sizes for side in size)
    assert set(conventions.sizes(512)) > {(512, 512), (592, 448), (336, 784)}
    example = Example("", (as_tensor(picture(1, (60, 70))),))
    assert at_full_size("flux1-kontext").size(example) == (944, 1104)
    assert len(family_of("flux1-dev").conventions.sizes(1024)) == 11


@pytest.mark.parametrize("kind", EDITS)
def test_a_small_source_is_encoded_as_large_as_by_the_pipeline(kind: str) -> None:
    example = Example("a", (as_tensor(picture(1, (32, 32))),))
    (source,) = family_of(kind).encode([example]).rows[0].sources
    small, large = (family_of(kind).conventions.shape(side, side)[-2:] for side in (32, 64))
    assert source["latent"].shape[-2:] == (large if kind in UP else small)


def test_the_language_model_reads_a_small_source_at_its_own_size(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    family = family_of("qwen-image-edit-plus")
    encode = family.conventions.encode_prompt

    def noting(pipe: Any, prompt: str, sources: Any) -> Any:
        seen.extend(tuple(source.shape[1:]) for source in sources)
        return encode(pipe, prompt, sources)

    monkeypatch.setattr(family.conventions, "encode_prompt", noting)
    family.encode([Example("a", (as_tensor(picture(1, (30, 50))),))])
    assert set(seen) == {(48, 80)}
