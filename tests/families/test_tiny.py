"""The tiny pipelines are worth a comparison: they react to each input and survive a trip through a folder."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline

from tests.families import tiny
from tests.families.tiny.calls import (
    EDITS,
    Forward,
    again,
    difference,
    forwards,
    picture,
    sample,
    sources_of,
    stacked,
)
from tests.families.tiny.words import PROMPTS, qwen

torch.set_num_threads(1)

NOTICEABLE = 0.01
ROUNDING = 1e-5
GUIDED = ("flux1-dev", "flux1-kontext", "flux2")
pytestmark = pytest.mark.parametrize("kind", tiny.KINDS)


@cache
def pipeline_of(kind: str) -> DiffusionPipeline:
    return tiny.build(kind)


@cache
def first_forward(kind: str, prompt: str = PROMPTS[0], source: int = 1) -> Forward:
    pipeline = pipeline_of(kind)
    return forwards(pipeline, prompt, source=sources_of(kind, picture(source)))[0]


def velocity(kind: str, **which: object) -> torch.Tensor:
    return stacked(first_forward(kind, **which).output)


def test_a_prompt_of_another_length_changes_the_velocity(kind: str) -> None:
    for prompt in PROMPTS[1:]:
        assert difference(velocity(kind, prompt=prompt), velocity(kind)) > NOTICEABLE


def test_time_changes_the_velocity(kind: str) -> None:
    forward = first_forward(kind)
    if kind == "z-image":  # given by position
        latents, time, *rest = forward.args
        changed = again(pipeline_of(kind), replace(forward, args=(latents, time + 0.3, *rest)))
    else:
        name = "t" if kind == "z-image-omni" else "timestep"
        unit = 1000 if kind == "sd3" else 1
        changed = again(pipeline_of(kind), forward, **{name: forward.kwargs[name] * 0.7 + 0.2 * unit})
    assert difference(changed, velocity(kind)) > NOTICEABLE


def test_the_source_changes_the_velocity(kind: str) -> None:
    if kind in EDITS:
        assert difference(velocity(kind, source=2), velocity(kind)) > NOTICEABLE
    else:
        assert sources_of(kind, picture(1)) is None


def test_the_guidance_vector_changes_the_velocity_where_there_is_one(kind: str) -> None:
    forward = first_forward(kind)
    guidance = forward.kwargs.get("guidance")
    assert (guidance is not None) == (kind in GUIDED)
    if guidance is not None:
        assert (
            difference(again(pipeline_of(kind), forward, guidance=guidance * 1.5), velocity(kind))
            > NOTICEABLE
        )


def test_sampling_at_another_shape_is_finite(kind: str) -> None:
    latents = sample(
        pipeline_of(kind), PROMPTS[2], size=(32, 48), source=sources_of(kind, picture(3, (64, 96)))
    )
    assert torch.isfinite(latents).all()


def test_a_build_is_a_function_of_its_seed_and_leaves_the_generator_alone(kind: str) -> None:
    state = torch.random.get_rng_state()
    same, other = tiny.build(kind).transformer, tiny.build(kind, seed=1).transformer
    assert torch.equal(torch.random.get_rng_state(), state)
    ours = pipeline_of(kind).transformer.state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in same.state_dict().items())
    assert not any(torch.equal(value, ours[name]) for name, value in other.named_parameters())


def test_a_folder_gives_the_same_pipeline(kind: str, tmp_path: Path) -> None:
    folder = tiny.save(kind, tmp_path)
    assert not [path for path in folder.rglob("*") if path.suffix in (".bin", ".pt", ".pkl", ".ckpt")]
    loaded, built = tiny.load(folder), pipeline_of(kind)
    assert type(loaded) is type(built)
    call = {"source": sources_of(kind, picture(1))}
    assert difference(sample(loaded, PROMPTS[0], **call), sample(built, PROMPTS[0], **call)) < ROUNDING


def test_a_template_has_as_many_tokens_as_the_pipeline_cuts_off(kind: str) -> None:
    cut = getattr(pipeline_of(kind), "prompt_template_encode_start_idx", None)
    if kind.startswith("qwen"):
        template = pipeline_of(kind).prompt_template_encode.split("<|vision_start|>")[0].split("{}")[0]
        assert len(qwen()(template).input_ids) == cut
    else:
        assert cut is None
