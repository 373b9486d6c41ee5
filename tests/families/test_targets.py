"""Targets: the clean latents of images, in the space that samples have and that `decode` takes back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from danceopd.data import DataError, TensorCache, check_targets, rows
from danceopd.families import Example, load_family
from danceopd.families.checkpoint import ModelCheckpoint
from danceopd.families.fitting import cover, fitted
from danceopd.families.pretrained import PretrainedFamily
from danceopd.shapesworld.render import from_pixels
from tests.families import tiny
from tests.families.parity import as_tensor, error, family_of, folder_of, pipeline_of
from tests.families.tiny.calls import EDITS, NEEDS_SOURCE, picture, small_sources
from tests.families.tiny.processors import without_torchvision

torch.set_num_threads(1)

ROUNDING = 5e-6
BFLOAT16 = 2**-8
KIND, OMNI = "flux2-klein", "z-image-omni"


@pytest.fixture(autouse=True)
def smaller_and_without_torchvision() -> Iterator[None]:
    with small_sources(), without_torchvision():
        yield


def new_family(kind: str = KIND, **options: Any) -> PretrainedFamily:
    family = load_family(folder_of(kind), resolution=64, **options)
    assert isinstance(family, PretrainedFamily)
    return family


@torch.no_grad()
def round_trip(kind: str, image: Tensor) -> tuple[Tensor, Tensor]:
    """What the VAE alone makes of an image: the mode of its distribution, and that decoded."""
    vae = pipeline_of(kind).vae
    pixels = (image.float() / 127.5 - 1)[None].to(vae.dtype)
    if kind.startswith("qwen"):  # a video of one frame
        pixels = pixels[:, :, None]
    mode = vae.encode(pixels).latent_dist.mode()
    decoded = vae.decode(mode).sample
    return mode.float(), decoded.float().view(1, *image.shape)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_decoding_a_target_is_the_autoencoders_own_round_trip(kind: str) -> None:
    family, image = family_of(kind), as_tensor(picture(3, (32, 48)))
    with torch.no_grad():
        target = family.conventions.encode_target(pipeline_of(kind), image)
        decoded = family.conventions.decode(pipeline_of(kind), target[None]).float()
    mode, wanted = round_trip(kind, image)
    assert target.dtype == torch.float32 and target.shape == family.shape(Example("", size=(32, 48)))
    # Omni's autoencoder is in bfloat16: the latent is rounded on its way there and back, and the tiny decoder
    # makes twenty times that of it.
    assert error(decoded, wanted) < (20 * BFLOAT16 if kind == OMNI else ROUNDING)
    # The round trip alone would not tell a latent that is neither scaled nor shifted, by both ways.
    assert target.numel() == mode.numel() and not torch.allclose(target.flatten(), mode.flatten(), rtol=0.05)
    with torch.no_grad():
        other = family.conventions.encode_target(pipeline_of(kind), as_tensor(picture(4, (32, 48))))
    assert error(other, target) > 0.01


@pytest.mark.parametrize("kind", EDITS)
def test_a_target_is_what_the_pipeline_makes_of_a_source(kind: str) -> None:
    pipe, image = pipeline_of(kind), as_tensor(picture(3, (32, 48)))
    with torch.no_grad():
        target = family_of(kind).conventions.encode_target(pipe, image)
        source = family_of(kind).conventions.encode_source(pipe, image)["latent"]
    assert error(target, source.float().view_as(target)) < (4 * BFLOAT16 if kind == OMNI else ROUNDING)


def examples(kind: str) -> list[Example]:
    sources = (as_tensor(picture(1)),) if kind in EDITS else ()
    with_size = Example("a", sources, as_tensor(picture(2, (40, 100))), size=(32, 48))
    small = Example("b", sources, as_tensor(picture(3, (16, 16))))
    return [with_size, small] if kind in NEEDS_SOURCE else [with_size, small, Example("c", target=image(5))]


def image(seed: int) -> Tensor:
    return as_tensor(picture(seed, (64, 64)))


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_targets_of_rows_have_the_rows_shapes(kind: str, tmp_path: Path) -> None:
    data, family = examples(kind), new_family(kind)
    (prepared,) = family.prepare([data], tmp_path, targets=True)
    for row, example in enumerate(data):
        assert prepared.target([row]).shape == (1, *prepared.shape(row)) == (1, *family.shape(example))
        assert example.target is not None
        brought = fitted(example.target, cover(*example.target.shape[1:], family.size(example)))
        with torch.no_grad():
            wanted = family.conventions.encode_target(pipeline_of(kind), brought)
        assert error(prepared.target([row])[0], wanted) < ROUNDING
    assert prepared.target([1, 1]).shape == (2, *prepared.shape(1))


def write_rows(folder: Path, *, whole: bool = True) -> Path:
    for number in range(3):
        picture(number).save(folder / f"{number}.png")
    last = "2.png" if whole else ""
    (folder / "rows.csv").write_text(f"prompt,source,target\na,0.png,1.png\nb,1.png,{last}\n")
    return folder / "rows.csv"


def test_a_second_run_finds_targets_without_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, family = write_rows(tmp_path), new_family()
    (first,) = family.prepare([family.data(file)], tmp_path / "cache", targets=True)
    family = new_family()
    data = family.data(file)

    def fail(*arguments: object) -> None:
        raise AssertionError("an image was decoded, an entry read, or the VAE was loaded")

    with monkeypatch.context() as patch:
        for owner, name in ((rows, "load_image"), (TensorCache, "get"), (ModelCheckpoint, "pipeline")):
            patch.setattr(owner, name, fail)
        (second,) = family.prepare([data], tmp_path / "cache", targets=True)
    assert torch.equal(second.target([1, 0]), first.target([1, 0]))


def test_targets_are_encoded_only_where_they_are_asked_for(tmp_path: Path) -> None:
    file, family = write_rows(tmp_path, whole=False), new_family()
    (prepared,) = family.prepare([family.data(file)], tmp_path / "cache")
    with pytest.raises(ValueError, match=r"row 0 has no target: .* targets=True"):
        prepared.target([0])
    before = set((tmp_path / "cache").rglob("*.safetensors"))
    new_family().prepare([examples(KIND)], tmp_path / "cache")
    assert len(set((tmp_path / "cache").rglob("*.safetensors")) - before) == 2  # the prompt c, and a source


def test_a_row_without_a_target_is_told_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(ModelCheckpoint, "pipeline", fail)
    family = new_family()
    data = family.data(write_rows(tmp_path, whole=False))
    wanted = r"row 2 of rows.csv \(line 3\) has nothing in its column 'target', the target that is learned"
    with pytest.raises(DataError, match=wanted):
        family.prepare([data], tmp_path / "cache", targets=True)
    (tmp_path / "plain.csv").write_text("prompt\na\n")
    with pytest.raises(DataError, match=r"plain.csv has no column 'target', which is learned from"):
        check_targets([family.data(tmp_path / "plain.csv")])
    with pytest.raises(DataError, match=r"row 1 has no target"):
        family.prepare([[Example("a")]], tmp_path / "cache", targets=True)
    assert not (tmp_path / "cache").exists()


def test_the_miniature_worlds_targets_are_its_pixels(tmp_path: Path) -> None:
    family = load_family("shapesworld")
    data = [family.data("local"), family.data("t2i")]
    for examples, prepared in zip(data, family.prepare(data, tmp_path, targets=True), strict=True):
        wanted = torch.stack([from_pixels(examples[row].target) for row in (5, 3)])
        assert torch.equal(prepared.target([5, 3]), wanted) and wanted.shape == (2, 3, 16, 16)
        assert (family.decode(wanted)[0] == examples[5].target).all()
    plain = [Example("circle on black")]
    with pytest.raises(ValueError, match="row 1 has no target"):
        family.prepare([plain], tmp_path, targets=True)
    (prepared,) = family.prepare([plain], tmp_path)
    with pytest.raises(ValueError, match="row 0 has no target"):
        prepared.target([0])
