from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from danceopd import ops
from danceopd.flow import GuidedField, ModelField, SigmaGrid, VelocityField, rollout

from .toys import Recorder, ToyCondition, ToyModel, draw_condition, draw_sample, predict

GRID = SigmaGrid.shifted(8, 3.0)
PLAIN = ModelField(ToyModel(), predict)
FIELDS = {"plain": PLAIN, "guided": GuidedField(PLAIN, 4.0), "guided by one": GuidedField(PLAIN, 1.0)}


@torch.no_grad()
def states(field: VelocityField, noise: Tensor, condition: ToyCondition) -> list[Tensor]:
    """All N + 1 states, by the definition: x' = x + (sigma' - sigma) v."""
    seen = [noise]
    for here, there in zip(GRID.values, GRID.values[1:], strict=False):
        sigma = torch.full((len(noise),), here)
        seen.append(seen[-1] + (there - here) * field(seen[-1], sigma, condition).float())
    return seen


@pytest.mark.parametrize("name", FIELDS)
def test_an_early_stop_has_the_bits_of_the_full_rollout_for_one_sample(name: str) -> None:
    noise, condition = draw_sample(1), draw_condition(1)
    recorder = Recorder(PLAIN)
    field = recorder if name == "plain" else GuidedField(recorder, FIELDS[name].scale)
    full = rollout(field, noise, GRID, condition)
    passed = [*(sample[:1] for sample in recorder.samples), full.sample]
    for stop in range(GRID.num_steps + 1):
        early = rollout(FIELDS[name], noise, GRID, condition, stop=torch.tensor([stop]))
        assert torch.equal(early.sample, passed[stop])
        assert early.sigma.item() == pytest.approx(GRID.values[stop], abs=1e-7)
        assert early.forwards == stop


@pytest.mark.parametrize("name", FIELDS)
@settings(deadline=None, max_examples=30)
@given(
    stops=st.lists(st.integers(0, GRID.num_steps), min_size=1, max_size=9),
    batch_size=st.one_of(st.none(), st.integers(1, 10)),
)
def test_every_sample_of_a_batch_stops_at_its_own_state(
    name: str, stops: list[int], batch_size: int | None
) -> None:
    noise, condition = draw_sample(len(stops)), draw_condition(len(stops))
    expected = states(FIELDS[name], noise, condition)
    out = rollout(FIELDS[name], noise, GRID, condition, stop=torch.tensor(stops), batch_size=batch_size)
    assert out.sample.dtype == torch.float32 and not out.sample.requires_grad
    for b, stop in enumerate(stops):
        torch.testing.assert_close(out.sample[b], expected[stop][b], rtol=1e-5, atol=1e-5)
        assert out.sigma[b] == GRID.tensor()[stop]
    assert out.forwards == sum(stops)


def test_active_samples_are_one_shrinking_prefix() -> None:
    recorder = Recorder(PLAIN)
    stop = torch.tensor([1, 4, 0, 4, 2])
    rollout(recorder, draw_sample(5), GRID, draw_condition(5), stop=stop)
    assert recorder.batches == [4, 3, 2, 2]
    assert sum(recorder.batches) == int(stop.sum())
    levels = GRID.tensor()
    assert all(bool((sigma == levels[i]).all()) for i, sigma in enumerate(recorder.sigmas))


def test_conditions_stay_with_their_samples() -> None:
    recorder = Recorder(PLAIN)
    noise, condition = draw_sample(4), draw_condition(4)
    rollout(recorder, noise, GRID, condition, stop=torch.tensor([2, 1, 3, 1]))
    assert torch.equal(recorder.samples[0], noise[[2, 0, 1, 3]])
    assert torch.equal(recorder.conditions[0].prompt, condition.prompt[[2, 0, 1, 3]])
    assert torch.equal(recorder.conditions[1].prompt, condition.prompt[[2, 0]])
    assert torch.equal(recorder.conditions[2].source, condition.source[[2]])


def test_chunks_hold_samples_of_similar_stops() -> None:
    recorder = Recorder(PLAIN)
    stop = torch.tensor([8, 1, 8, 1])
    rollout(recorder, draw_sample(4), GRID, draw_condition(4), stop=stop, batch_size=2)
    assert recorder.batches == [2] * 9


def test_state_zero_is_the_noise_untouched() -> None:
    noise = draw_sample(3)
    out = rollout(PLAIN, noise, GRID, draw_condition(3), stop=torch.zeros(3, dtype=torch.int64))
    assert torch.equal(out.sample, noise) and out.forwards == 0
    assert out.sigma.tolist() == [1.0] * 3


def test_the_sample_stays_fp32_under_a_bf16_field() -> None:
    model = ToyModel().to(torch.bfloat16)
    recorder = Recorder(ModelField(model, predict))
    noise, condition = draw_sample(2), draw_condition(2)
    condition = ToyCondition(condition.prompt.bfloat16(), condition.source.bfloat16())
    out = rollout(recorder, noise, GRID, condition)
    assert recorder.field(noise, torch.ones(2), condition).dtype == torch.bfloat16
    assert out.sample.dtype == torch.float32
    expected = states(ModelField(model, predict), noise, condition)[-1]
    torch.testing.assert_close(out.sample, expected, rtol=1e-5, atol=1e-5)
    assert not torch.equal(out.sample, out.sample.bfloat16().float())


def test_gradient_is_not_recorded_though_parameters_want_it() -> None:
    assert all(parameter.requires_grad for parameter in PLAIN.model.parameters())
    out = rollout(PLAIN, draw_sample(2), GRID, draw_condition(2))
    assert out.sample.grad_fn is None and not out.sample.is_inference()


def test_the_noise_is_left_as_it_was() -> None:
    noise = draw_sample(3)
    before = noise.clone()
    rollout(PLAIN, noise, GRID, draw_condition(3), stop=torch.tensor([3, 0, 1]))
    assert torch.equal(noise, before)


@pytest.mark.parametrize(
    ("stop", "message"),
    [
        (torch.tensor([0, 9]), r"stop must lie in 0 \.\. 8, but got \[0, 9\]"),
        (torch.tensor([-1, 0]), r"stop must lie in 0 \.\. 8, but got \[-1, 0\]"),
        (
            torch.tensor([1]),
            r"stop must be int64 of shape \[2\] or \[2, K\], but got torch.int64 of shape \[1\]",
        ),
        (torch.tensor([1.0, 2.0]), r"stop must be int64 of shape \[2\] or \[2, K\], but got torch.float32"),
    ],
)
def test_a_bad_stop_is_refused(stop: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rollout(PLAIN, draw_sample(2), GRID, draw_condition(2), stop=stop)


def test_other_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="condition must hold one entry per sample, but got 3 for 2 samples"):
        rollout(PLAIN, draw_sample(2), GRID, draw_condition(3))
    with pytest.raises(ValueError, match="condition must hold one entry per sample, but got 0 for 0"):
        rollout(PLAIN, draw_sample(0), GRID, draw_condition(0))
    with pytest.raises(ValueError, match="batch_size must be at least 1, but got 0"):
        rollout(PLAIN, draw_sample(2), GRID, draw_condition(2), batch_size=0)


@torch.no_grad()
def stepped_afresh(field: VelocityField, noise: Tensor, condition: ToyCondition, stop: Tensor) -> Tensor:
    """A rollout in which no step writes over anything; the batches shrink as in `rollout`."""
    order = torch.argsort(stop, descending=True, stable=True)
    sample, condition, left = noise.float()[order], condition.take(order), stop[order]
    ended = torch.empty_like(sample)
    for i in range(int(stop.max()) + 1):
        moving = int((left > i).sum())
        ended[moving : len(sample)] = sample[moving:]
        sample, condition = sample[:moving].clone(), condition.take(torch.arange(moving))
        if moving:
            velocity = field(sample.clone(), GRID.tensor()[i].expand(moving), condition)
            sample = ops.euler_step(sample, velocity, GRID.values[i], GRID.values[i + 1])
    return ended[torch.argsort(order)]


@settings(deadline=None, max_examples=30)
@given(
    stops=st.lists(st.integers(0, GRID.num_steps), min_size=1, max_size=9),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_steps_in_place_end_in_the_bits_of_fresh_ones(stops: list[int], dtype: torch.dtype) -> None:
    noise, condition, stop = (
        draw_sample(len(stops)).to(dtype),
        draw_condition(len(stops)),
        torch.tensor(stops),
    )
    before = noise.clone()
    out = rollout(PLAIN, noise, GRID, condition, stop=stop)
    assert torch.equal(out.sample, stepped_afresh(PLAIN, noise, condition, stop))
    assert torch.equal(noise, before)
    assert out.sample.untyped_storage().data_ptr() != noise.untyped_storage().data_ptr()


def test_the_sample_may_be_its_own_velocity() -> None:
    noise, condition, stop = draw_sample(3), draw_condition(3), torch.tensor([8, 3, 0])

    def itself(sample: Tensor, sigma: Tensor, condition: ToyCondition) -> Tensor:
        return sample

    out = rollout(itself, noise, GRID, condition, stop=stop)
    assert torch.equal(out.sample, stepped_afresh(itself, noise, condition, stop))
