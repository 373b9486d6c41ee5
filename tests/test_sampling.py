from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from danceopd.data.images import load_image
from danceopd.families import Example, Student, Teacher
from danceopd.flow import GuidedField, ModelField, SigmaGrid, VelocityField
from danceopd.pictures import write_pngs
from danceopd.sampling import as_pixels, sample

from .flow.toys import SHAPE, Recorder, ToyCondition, ToyModel, predict

PROMPTS = [f"prompt {b}" for b in range(7)]


class ToyFamily:
    """Prompts become vectors by their last digit, latents become tiny images."""

    device = torch.device("cpu")

    def shape(self, example: Example) -> tuple[int, ...]:
        return SHAPE

    def guided(self, field: VelocityField, scale: float) -> VelocityField:
        return GuidedField(field, scale)

    def grid(self, num_steps: int, shape: tuple[int, ...]) -> SigmaGrid:
        return SigmaGrid.uniform(num_steps)

    def encode(self, examples: list[Example]) -> ToyCondition:
        prompt = torch.tensor([[float(example.prompt[-1]) / 5] * 4 for example in examples])
        source = [
            e.sources[0].float().mean().expand(4) / 99 if e.sources else torch.zeros(4) for e in examples
        ]
        return ToyCondition(prompt, torch.stack(source))

    def decode(self, sample: Tensor) -> Tensor:
        return ((sample[:, :, None, :].tanh() + 1) * 127.5).to(torch.uint8)


FAMILY = ToyFamily()
FIELD = ModelField(ToyModel(), predict)


def test_images_have_the_shape_and_dtype_of_images() -> None:
    images = sample(FAMILY, FIELD, PROMPTS, num_steps=4)
    assert images.shape == (7, 3, 1, 4) and images.dtype == torch.uint8


def test_noise_depends_on_seed_and_position_alone() -> None:
    recorders = [Recorder(FIELD) for _ in range(2)]
    whole = sample(FAMILY, recorders[0], PROMPTS, num_steps=2, seed=5)
    parts = sample(FAMILY, recorders[1], PROMPTS, num_steps=2, seed=5, batch_size=3)
    assert recorders[1].batches == [3, 3, 3, 3, 1, 1]
    started = torch.cat(recorders[1].samples[::2])
    assert torch.equal(recorders[0].samples[0], started)
    assert len(started.unique(dim=0)) == 7
    assert int((whole.int() - parts.int()).abs().max()) <= 1
    assert not torch.equal(whole, sample(FAMILY, FIELD, PROMPTS, num_steps=2, seed=6))


def test_neighbouring_seeds_share_no_noise() -> None:
    recorder = Recorder(FIELD)
    for seed in range(3):
        sample(FAMILY, recorder, PROMPTS, num_steps=1, seed=seed)
    assert len(torch.cat(recorder.samples).unique(dim=0)) == 3 * len(PROMPTS)


def test_guidance_and_sources_reach_the_field() -> None:
    recorder = Recorder(FIELD)
    sources = [None, torch.full((3, 2, 2), 99, dtype=torch.uint8)]
    sample(FAMILY, recorder, PROMPTS[1:3], sources=sources, num_steps=1, guidance_scale=3.0)
    assert recorder.batches == [4]
    assert recorder.conditions[0].prompt[:, 0].tolist() == pytest.approx([0.2, 0.4, 0.0, 0.0])
    assert recorder.conditions[0].source[:, 0].tolist() == pytest.approx([0.0, 1.0, 0.0, 1.0])


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="prompts must be a list of at least one, but got 'a red circle'"):
        sample(FAMILY, FIELD, "a red circle")
    with pytest.raises(ValueError, match="prompts must be a list of at least one"):
        sample(FAMILY, FIELD, [])
    with pytest.raises(ValueError, match="got 1 for 7 prompts"):
        sample(FAMILY, FIELD, PROMPTS, sources=[None])
    with pytest.raises(ValueError, match="batch_size must be at least 1, but got 0"):
        sample(FAMILY, FIELD, PROMPTS, batch_size=0)
    with pytest.raises(ValueError, match="num_steps must be at least 1, but got 0"):
        sample(FAMILY, FIELD, PROMPTS, num_steps=0)


def test_latents_that_are_not_finite_are_no_pictures() -> None:
    def spoilt(velocity: Tensor, sigma: Tensor, condition: ToyCondition) -> Tensor:
        return torch.where(condition.prompt[:, :1, None] > 1.1, torch.nan, velocity)

    with pytest.raises(FloatingPointError, match=r"field led 1 of 7 samples to latents .* 'prompt 6'"):
        sample(FAMILY, spoilt, PROMPTS, num_steps=2)


def test_sources_may_be_pictures_and_files(tmp_path: Path) -> None:
    pixels = torch.arange(48, dtype=torch.uint8).view(3, 4, 4)
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    write_pngs(pixels[None], tmp_path / "x.png")  # enlarged, which is undone
    expected = sample(FAMILY, FIELD, PROMPTS[:1], sources=[pixels], num_steps=2)
    for source in (picture, tmp_path / "x.png", str(tmp_path / "x.png"), [picture]):
        given: Any = [source]
        assert torch.equal(sample(FAMILY, FIELD, PROMPTS[:1], sources=given, num_steps=2), expected)


def test_pictures_of_other_kinds_are_those_that_training_reads() -> None:
    clear = Image.new("RGBA", (2, 2), (10, 20, 30, 0))
    palette = Image.new("P", (2, 2), 0)
    palette.info["transparency"] = 0
    greys = Image.fromarray(np.array([[0, 0x1234], [0x80FF, 0xFFFF]], dtype=np.uint16))
    for picture in (clear, palette, greys):
        assert torch.equal(as_pixels(picture), load_image(picture, Path(), "it").pixels)
    assert as_pixels(clear).min() == 255 and as_pixels(greys)[0].tolist() == [[0, 0x12], [0x80, 0xFF]]
    with pytest.raises(ValueError, match="an image has 32-bit pixels, whose range is unknown"):
        as_pixels(Image.new("F", (2, 2)))


def test_an_enlarged_picture_that_was_scaled_or_cropped_is_taken_as_it_is(tmp_path: Path) -> None:
    pixels = torch.arange(48, dtype=torch.uint8).view(3, 4, 4)
    write_pngs(pixels[None], tmp_path / "x.png", zoom=4)
    with Image.open(tmp_path / "x.png") as picture:
        assert torch.equal(as_pixels(picture), pixels)
        assert torch.equal(as_pixels(picture.resize((4, 4), Image.Resampling.NEAREST)), pixels)
        assert as_pixels(picture.crop((2, 2, 10, 10))).shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"family": "shapesworld"}, TypeError, r"family .*'shapesworld'.*danceopd.load_family"),
        ({"field": Teacher("x")}, TypeError, r"got Teacher\('x', ...\); give what family.teacher"),
        ({"field": Student(ToyModel(), FIELD, Mock())}, TypeError, "but got Student; give its .field"),
        ({"sources": torch.zeros(3, 4, 4)}, ValueError, "sources must be a list .* got Tensor; wrap it"),
        ({"field": "runs/x"}, TypeError, r"field .*'runs/x'; a run's is danceopd.load_student\('runs/x'\)"),
        ({"field": lambda sample: sample}, TypeError, r"field must take \(sample, sigma, condition\)"),
        ({"num_steps": 4.5}, TypeError, "num_steps must be a whole number, but got 4.5"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, but got 0"),
        ({"sources": "x.png"}, ValueError, "sources must be a list .* got str"),
        ({"sources": [3] * 7}, TypeError, "an image must be .* but got int"),
        ({"sources": [torch.zeros(4, 4, 3)] * 7}, ValueError, r"must have shape \[3, H, W\]"),
    ],
)
def test_other_types_are_told(changed: dict[str, Any], error: type[Exception], message: str) -> None:
    given: dict[str, Any] = {"family": FAMILY, "field": FIELD, **changed}
    with pytest.raises(error, match=message):
        sample(given.pop("family"), given.pop("field"), PROMPTS, **given)
