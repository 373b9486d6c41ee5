from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import Flux2Pipeline
from torch import Tensor, nn

from danceopd.shapesworld import TaskSet, render
from danceopd.shapesworld.model import (
    PATCH_NUMBERS,
    TOKENS,
    ShapesCondition,
    build_model,
    patchify,
    predict,
    unpatchify,
)

SHAPE = (3, 16, 16)


def condition_of(*grounds: str) -> ShapesCondition:
    """One row per ground named, and its source where it has one."""
    tasks = [TaskSet(ground)[row] for row, ground in enumerate(grounds)]
    sources = [None if task.source is None else render([task.source])[0] for task in tasks]
    return ShapesCondition.from_prompts([task.prompt for task in tasks], sources)


def draw(batch: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(seed)
    return torch.randn(batch, *SHAPE, generator=stream), torch.rand(batch, generator=stream)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return build_model(0).requires_grad_(False)


class Recorder(nn.Module):
    """Takes the transformer's place and shows what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, **arguments: Any) -> tuple[Tensor]:
        self.arguments = arguments
        return (arguments["hidden_states"],)


def test_the_model_is_small_and_seeded() -> None:
    weights = build_model(3).state_dict()
    assert sum(value.numel() for value in weights.values()) < 1_000_000
    state = torch.random.get_rng_state()
    assert all(torch.equal(value, weights[name]) for name, value in build_model(3).state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert any(not torch.equal(value, weights[name]) for name, value in build_model(4).state_dict().items())


def test_a_mixed_batch_is_its_rows_one_by_one(model: nn.Module) -> None:
    condition = condition_of("t2i", "edit", "t2i", "local", "global", "t2i")
    sample, sigma = draw(6)
    together = predict(model, sample, sigma, condition)
    rows = [torch.tensor([row]) for row in range(6)]
    alone = torch.cat([predict(model, sample[row], sigma[row], condition.take(row)) for row in rows])
    assert together.shape == sample.shape
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("grounds", [("t2i", "t2i"), ("edit", "edit"), ("t2i", "edit", "t2i")])
def test_nothing_is_read_back_from_the_device(grounds: tuple[str, ...]) -> None:
    """On the meta device there are no values: asking for one, which would wait for a GPU, is an error."""
    condition = condition_of(*grounds).to("meta")
    assert condition.source.is_meta and not condition.has_source.is_meta
    condition = condition.take(torch.arange(len(grounds))).concat(condition.unconditional())
    sample, sigma = (tensor.to("meta") for tensor in draw(2 * len(grounds)))
    velocity = predict(build_model().to("meta"), sample, sigma, condition)
    assert velocity.is_meta and velocity.shape == sample.shape


def test_a_mixed_batch_has_gradients(model: nn.Module) -> None:
    sample, sigma = draw(4)
    sample.requires_grad_()
    predict(model, sample, sigma, condition_of("t2i", "edit", "t2i", "edit")).square().sum().backward()
    assert sample.grad is not None
    assert (sample.grad.flatten(1).norm(dim=1) > 0).all()


def test_the_velocity_follows_prompt_noise_level_source_and_sample(model: nn.Module) -> None:
    condition = condition_of("edit", "edit")
    (sample, sigma), (other_sample, other_sigma) = draw(2), draw(2, seed=1)
    velocity = predict(model, sample, sigma, condition)
    assert torch.equal(predict(model, sample, sigma, condition), velocity)
    for changed in (
        predict(model, other_sample, sigma, condition),
        predict(model, sample, other_sigma, condition),
        predict(model, sample, sigma, condition.unconditional()),
        predict(model, sample, sigma, replace(condition, source=-condition.source)),
        predict(model, sample, sigma, replace(condition, has_source=torch.zeros(2, dtype=torch.bool))),
    ):
        assert ((changed - velocity).flatten(1).norm(dim=1) > 1e-3).all()


def test_the_order_of_words_matters(model: nn.Module) -> None:
    sample, sigma = draw(1)
    one, other = (
        ShapesCondition.from_prompts([prompt], [None])
        for prompt in ("circle above square on grey", "square above circle on grey")
    )
    assert (predict(model, sample, sigma, one) - predict(model, sample, sigma, other)).norm() > 1e-3


def test_ids_and_tokens_are_those_of_the_real_family() -> None:
    """Position ids and token order agree with diffusers' FLUX.2 pipeline."""
    recorder = Recorder()
    condition = condition_of("edit", "edit")
    sample, sigma = draw(2)
    predict(recorder, sample, sigma, condition)
    given = recorder.arguments

    latents, sources = (nn.functional.pixel_unshuffle(images, 4) for images in (sample, condition.source))
    target_ids = Flux2Pipeline._prepare_latent_ids(latents)[0]
    source_ids = Flux2Pipeline._prepare_image_ids([sources[:1]])[0]
    assert torch.equal(given["img_ids"], torch.cat([target_ids, source_ids]))
    assert torch.equal(given["txt_ids"], Flux2Pipeline._prepare_text_ids(given["encoder_hidden_states"])[0])
    tokens = torch.cat([Flux2Pipeline._pack_latents(latents), Flux2Pipeline._pack_latents(sources)], dim=1)
    assert torch.equal(given["hidden_states"], tokens)
    assert torch.equal(given["timestep"], sigma)


def test_without_a_source_there_are_no_source_tokens() -> None:
    recorder = Recorder()
    predict(recorder, *draw(2), condition_of("t2i", "t2i"))
    assert recorder.arguments["hidden_states"].shape == (2, TOKENS, PATCH_NUMBERS)
    assert recorder.arguments["img_ids"].shape == (TOKENS, 4)


def test_patches_go_there_and_back() -> None:
    images, _ = draw(3)
    assert torch.equal(unpatchify(patchify(images)), images)
    assert torch.equal(patchify(images)[1, 6].view(3, 4, 4), images[1, :, 4:8, 8:12])


def test_conditions_are_taken_joined_and_unconditioned() -> None:
    condition = condition_of("t2i", "edit", "local")
    taken = condition.take(torch.tensor([2, 0, 2]))
    assert len(taken) == 3
    assert torch.equal(taken.tokens, condition.tokens[[2, 0, 2]])
    assert taken.has_source.tolist() == [True, False, True]
    both = condition.concat(taken)
    assert len(both) == 6
    assert torch.equal(both.take(torch.arange(3, 6)).source, taken.source)
    dropped = condition.unconditional()
    assert dropped.tokens.abs().sum() == 0
    assert torch.equal(dropped.source, condition.source)
    assert torch.equal(dropped.has_source, condition.has_source)
    assert torch.equal(condition.to("cpu").tokens, condition.tokens)


def test_sources_of_another_size_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"source has shape \(3, 8, 8\), but ShapesWorld edits images of \(3, 16, 16\)"
    ):
        ShapesCondition.from_prompts(["add red circle"], [torch.zeros(3, 8, 8)])
