from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from danceopd import ops
from danceopd.flow import GuidedField, ModelField, SigmaGrid, Solver, VelocityField, rollout, rows_not_finite

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


@pytest.mark.parametrize("solver", ["euler", "ab2"])
@settings(deadline=None, max_examples=30)
@given(data=st.data(), batch_size=st.one_of(st.none(), st.integers(1, 7)))
def test_several_states_of_each_sample_are_those_it_passes(
    solver: Solver, data: st.DataObject, batch_size: int | None
) -> None:
    rows, wanted = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 4))
    of = st.sets(st.integers(0, GRID.num_steps), min_size=wanted, max_size=wanted).map(sorted)
    stop = torch.tensor(data.draw(st.lists(of, min_size=rows, max_size=rows)))
    noise, condition = draw_sample(rows), draw_condition(rows)
    out = rollout(PLAIN, noise, GRID, condition, stop=stop, batch_size=batch_size, solver=solver)
    assert out.sample.shape == (rows, wanted, *noise.shape[1:])
    assert torch.equal(out.sigma, GRID.tensor()[stop])
    assert out.forwards == int(stop[:, -1].sum())
    for b in range(rows):
        for k in range(wanted):
            alone = rollout(PLAIN, noise[[b]], GRID, condition.take(torch.tensor([b])), stop=stop[b, [k]],
                            solver=solver)  # fmt: skip
            torch.testing.assert_close(out.sample[b, k], alone.sample[0], rtol=1e-5, atol=1e-5)


def test_slots_are_refilled_and_sigmas_go_with_the_samples() -> None:
    recorder = Recorder(PLAIN)
    rollout(recorder, draw_sample(3), GRID, draw_condition(3), stop=torch.tensor([4, 2, 3]), batch_size=2)
    assert recorder.batches == [2, 2, 2, 2, 1]
    levels = GRID.tensor().tolist()
    expected = [(0, 0), (1, 1), (2, 2), (3, 0), (1,)]
    assert [sigma.tolist() for sigma in recorder.sigmas] == [[levels[i] for i in s] for s in expected]


def test_adams_and_bashforth_are_of_second_order() -> None:
    def turning(sample: Tensor, sigma: Tensor, condition: ToyCondition) -> Tensor:
        return sample * torch.sin(5 * sigma)[:, None, None]

    noise = draw_sample(1).double().float()
    integral = torch.tensor((1 - math.cos(5.0)) / 5)  # of sin(5 sigma) from 0 to 1
    exact = noise * torch.exp(-integral)

    def error(steps: int, solver: Solver) -> float:
        out = rollout(turning, noise, SigmaGrid.uniform(steps), draw_condition(1), solver=solver)
        return float((out.sample - exact).abs().max())

    assert math.log2(error(16, "euler") / error(32, "euler")) == pytest.approx(1.0, abs=0.15)
    assert math.log2(error(16, "ab2") / error(32, "ab2")) == pytest.approx(2.0, abs=0.3)
    assert error(32, "ab2") < error(32, "euler") / 2


@pytest.mark.parametrize("field", [PLAIN, GuidedField(PLAIN, 3.0)])
def test_adams_and_bashforth_step_as_the_op_does(field: VelocityField) -> None:
    noise, condition = draw_sample(2), draw_condition(2)
    levels = GRID.values
    with torch.no_grad():
        before = field(noise, torch.full((2,), levels[0]), condition)
        sample = ops.euler_step(noise, before, levels[0], levels[1])
        for i in range(1, GRID.num_steps):
            now = field(sample, torch.full((2,), levels[i]), condition)
            sample = ops.ab2_step(sample, now, before, levels[i - 1], levels[i], levels[i + 1])
            before = now
    out = rollout(field, noise, GRID, condition, solver="ab2")
    torch.testing.assert_close(out.sample, sample, rtol=1e-5, atol=1e-5)


def test_bad_states_and_solvers_are_refused() -> None:
    with pytest.raises(ValueError, match="stop must rise along each sample's states"):
        rollout(PLAIN, draw_sample(1), GRID, draw_condition(1), stop=torch.tensor([[3, 3]]))
    with pytest.raises(ValueError, match="solver must be 'euler' or 'ab2', but got 'heun'"):
        rollout(PLAIN, draw_sample(1), GRID, draw_condition(1), solver="heun")  # type: ignore[arg-type]
    levels: Any = [1.0, 0.5, 0.0]
    with pytest.raises(TypeError, match=r"grid must be a SigmaGrid, but got list; wrap"):
        rollout(PLAIN, draw_sample(1), levels, draw_condition(1))


def test_states_may_be_given_as_a_list() -> None:
    noise, condition = draw_sample(2), draw_condition(2)
    listed = rollout(PLAIN, noise, GRID, condition, stop=[1, 2])
    assert torch.equal(
        listed.sample, rollout(PLAIN, noise, GRID, condition, stop=torch.tensor([1, 2])).sample
    )


@pytest.mark.parametrize("solver", ["euler", "ab2"])
def test_a_field_may_return_a_view_of_its_sample_and_not_write_to_it(solver: Solver) -> None:
    noise, condition = draw_sample(2), draw_condition(2)

    def turned(sample: Tensor, sigma: Tensor, condition: ToyCondition) -> Tensor:
        return sample[:1].expand_as(sample)

    def copied(sample: Tensor, sigma: Tensor, condition: ToyCondition) -> Tensor:
        return turned(sample, sigma, condition).clone()

    def writing(sample: Tensor, sigma: Tensor, condition: ToyCondition) -> Tensor:
        return sample.neg_()

    expected = rollout(copied, noise, GRID, condition, solver=solver).sample
    assert torch.equal(rollout(turned, noise, GRID, condition, solver=solver).sample, expected)
    with pytest.raises(ValueError, match="the field of the rollout wrote in place to the sample"):
        rollout(writing, noise, GRID, condition, solver=solver)


def test_samples_that_are_not_finite_are_found() -> None:
    sample = torch.zeros(4, 3, 2)
    sample[1, 2, 0], sample[3, 0, 1] = torch.nan, -torch.inf
    assert rows_not_finite(sample) == [1, 3]
