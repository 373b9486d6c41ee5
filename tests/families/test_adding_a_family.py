"""The guide to adding a family, followed as it is written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel, FlowMatchEulerDiscreteScheduler
from transformers import UMT5Config, UMT5EncoderModel

from danceopd.families import Example, StudentConfig, Teacher, load_family, registry
from tests.families.parity import as_tensor, error
from tests.families.tiny import words
from tests.families.tiny.calls import picture
from tests.families.tiny.parts import autoencoder, liven
from tests.families.tiny.words import PROMPTS

torch.set_num_threads(1)

GUIDE = Path(__file__).parents[2] / "docs" / "adding-a-family.md"
ROUNDING = 5e-6
NOTICEABLE = 0.01
WIDTH = 32


def aura_flow() -> AuraFlowPipeline:
    text = UMT5Config(
        vocab_size=len(words.t5()), d_model=WIDTH, d_kv=8, d_ff=64, num_layers=2, num_heads=2, use_cache=False
    )
    transformer = AuraFlowTransformer2DModel(
        sample_size=8,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        caption_projection_dim=32,
        pos_embed_max_size=64,
    )
    transformer = liven(transformer)
    # Most of the 256 text tokens are padding, alike for every prompt: the words must speak up.
    transformer.joint_transformer_blocks[0].attn.add_v_proj.weight.mul_(64.0)
    return AuraFlowPipeline(
        tokenizer=words.t5(),
        text_encoder=liven(UMT5EncoderModel(text)),
        vae=autoencoder(4),
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
    )


def some_noise() -> torch.Tensor:
    return torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("aura_flow")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        aura_flow().save_pretrained(place, safe_serialization=True)
    return place


@pytest.fixture(scope="module")
def guide() -> Iterator[dict[str, Any]]:
    """What the guide's code defines, with the family known to `load_family` as long as the tests run."""
    blocks = re.findall(
        r"^```python\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    names: dict[str, Any] = {"__name__": "guide"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_CONVENTIONS", dict(registry._CONVENTIONS))
        for block in blocks:
            exec(compile(block, GUIDE.name, "exec"), names)
        yield names


def test_a_family_that_is_not_known_is_told_where_to_look(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"AuraFlowPipeline, .* docs/adding-a-family\.md"):
        load_family(folder, resolution=64)


def test_the_family_of_the_guide_is_known(folder: Path, guide: dict[str, Any]) -> None:
    family = load_family(folder, resolution=64)
    assert type(family.conventions) is guide["AuraFlow"]


@pytest.mark.parametrize("size", [(32, 32), (32, 48)], ids=str)
@pytest.mark.parametrize("scale", [1.0, 3.5])
def test_its_latents_are_the_pipelines(
    folder: Path, guide: dict[str, Any], scale: float, size: tuple[int, int]
) -> None:
    for prompts in ([PROMPTS[0]], list(PROMPTS[:3])):
        ours, theirs = (guide[whose](folder, prompts, *size, scale) for whose in ("ours", "theirs"))
        assert error(ours, theirs) < ROUNDING * (2 * scale - 1)


def test_its_images_are_the_pipelines(folder: Path, guide: dict[str, Any]) -> None:
    ours, theirs = guide["images"](folder, list(PROMPTS[:2]), 32, 48)
    assert ours.shape == (2, 3, 32, 48)
    assert (ours.int() - theirs.int()).abs().max() <= 1


def test_its_targets_are_taken_back_by_its_decoder(folder: Path, guide: dict[str, Any]) -> None:
    family = load_family(folder, resolution=64)
    pipe = AuraFlowPipeline.from_pretrained(folder)
    image = as_tensor(picture(1, (32, 48)))
    with torch.no_grad():
        target = family.conventions.encode_target(pipe, image)
        decoded = family.conventions.decode(pipe, target[None])
        mode = pipe.vae.encode((image / 127.5 - 1)[None]).latent_dist.mode()
        assert error(decoded, pipe.vae.decode(mode).sample) < ROUNDING
    assert target.shape == family.shape(Example("", size=(32, 48)))


def test_the_tiny_model_reacts(folder: Path, guide: dict[str, Any]) -> None:
    family = load_family(folder, resolution=64)
    field, noise, sigma = family.teacher(Teacher("base")), some_noise(), torch.full((1,), 0.7)
    first, second = (family.encode([Example(prompt)]) for prompt in PROMPTS[:2])
    velocity = field(noise, sigma, first)
    assert error(field(noise, sigma, second), velocity) > NOTICEABLE
    assert error(field(noise, sigma - 0.3, first), velocity) > NOTICEABLE


def test_a_student_of_it_starts_at_the_base(folder: Path, guide: dict[str, Any]) -> None:
    family = load_family(folder, resolution=64)
    student, base = family.student(StudentConfig(rank=4)), family.teacher(Teacher("base"))
    given = some_noise(), torch.full((1,), 0.7), family.encode([Example(PROMPTS[0])])
    with torch.no_grad():
        assert error(student.field(*given), base(*given)) < ROUNDING
    assert sum(parameter.requires_grad for parameter in student.module.parameters()) == 2 * (8 + 4)
