from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from danceopd.flow import GuidedField, MixtureField, ModelField, velocity_of

from .toys import Recorder, ToyCondition, ToyModel, draw_condition, draw_sample, predict

SIGMA = torch.linspace(0.05, 0.95, 6)


def field(seed: int = 0) -> ModelField:
    return ModelField(ToyModel(seed), predict)


@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.5, 2.5, 7.0])
@torch.no_grad()
def test_guidance_equals_two_separate_forwards(scale: float) -> None:
    sample, condition = draw_sample(6), draw_condition(6)
    cond = field()(sample, SIGMA, condition)
    uncond = field()(sample, SIGMA, condition.unconditional())
    guided = GuidedField(field(), scale)(sample, SIGMA, condition)
    torch.testing.assert_close(guided, uncond + scale * (cond - uncond), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_guidance_is_one_forward_of_twice_the_batch() -> None:
    recorder = Recorder(field())
    GuidedField(recorder, 3.0)(draw_sample(6), SIGMA, draw_condition(6))
    assert recorder.batches == [12]
    assert torch.equal(recorder.conditions[0].source[:6], recorder.conditions[0].source[6:])


@torch.no_grad()
def test_scale_one_is_the_field_itself_in_one_forward() -> None:
    sample, condition = draw_sample(6), draw_condition(6)
    recorder = Recorder(field())
    guided = GuidedField(recorder, 1.0)
    assert torch.equal(guided(sample, SIGMA, condition), field()(sample, SIGMA, condition))
    assert guided.branches(sample, SIGMA, condition)[1] is None
    assert recorder.batches == [6, 6]


def test_guidance_carries_gradient_through_both_branches() -> None:
    sample, condition = draw_sample(6), draw_condition(6)
    model, twin = ToyModel(), ToyModel()
    GuidedField(ModelField(model, predict), 2.5)(sample, SIGMA, condition).square().mean().backward()
    cond = predict(twin, sample, SIGMA, condition)
    uncond = predict(twin, sample, SIGMA, condition.unconditional())
    (uncond + 2.5 * (cond - uncond)).square().mean().backward()
    for parameter, expected in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected.grad, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_a_mixture_is_the_weighted_sum() -> None:
    sample, condition = draw_sample(6), draw_condition(6)
    fields, weights = [field(seed) for seed in range(3)], [0.5, 0.2, -0.7]
    expected = sum(w * f(sample, SIGMA, condition) for w, f in zip(weights, fields, strict=True))
    torch.testing.assert_close(
        MixtureField(fields, weights)(sample, SIGMA, condition), expected, rtol=1e-5, atol=1e-6
    )


@torch.no_grad()
def test_guidance_is_a_mixture_of_the_two_branches() -> None:
    sample, condition = draw_sample(6), draw_condition(6)

    def unprompted(sample: torch.Tensor, sigma: torch.Tensor, condition: object) -> torch.Tensor:
        return field()(sample, sigma, condition.unconditional())  # type: ignore[attr-defined]

    mixture = MixtureField([field(), unprompted], [3.0, -2.0])(sample, SIGMA, condition)
    guided = GuidedField(field(), 3.0)(sample, SIGMA, condition)
    torch.testing.assert_close(mixture, guided, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.complex64])
def test_a_velocity_of_a_dtype_that_no_op_takes_is_refused(dtype: torch.dtype) -> None:
    def other(sample: Tensor, sigma: Tensor, condition: ToyCondition) -> Tensor:
        return sample.to(dtype)

    sample, sigma, condition = draw_sample(2), torch.full((2,), 0.5), draw_condition(2)
    with pytest.raises(TypeError, match=rf"mine returned a velocity of {dtype} for samples of torch.float32"):
        velocity_of(other, "mine", sample, sigma, condition)
    with pytest.raises(TypeError, match="the field under guidance returned a velocity of"):
        GuidedField(other, 2.0)(sample, sigma, condition)


def test_checked_fields_can_be_compiled_whole() -> None:
    field = MixtureField([ModelField(ToyModel(), predict)] * 2, (0.5, 1.0))
    given = draw_sample(2), torch.full((2,), 0.5), draw_condition(2)
    with torch.no_grad():
        compiled = torch.compile(field, backend="eager", fullgraph=True)(*given)
        assert torch.allclose(compiled, field(*given))


def test_bad_fields_are_refused() -> None:
    for scale in (math.nan, math.inf):
        with pytest.raises(ValueError, match="scale must be a finite number"):
            GuidedField(field(), scale)
    with pytest.raises(ValueError, match="got 1 weights for 2 fields"):
        MixtureField([field(), field()], [1.0])
    with pytest.raises(ValueError, match="got 0 weights for 0 fields"):
        MixtureField([], [])
    with pytest.raises(ValueError, match="weights must be finite"):
        MixtureField([field()], [math.nan])
