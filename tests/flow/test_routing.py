from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danceopd.flow import GuidedField, ModelField, route_probabilities, routed_velocity

from .toys import Recorder, ToyModel, draw_condition, draw_sample, predict

FIELDS = [ModelField(ToyModel(0), predict), GuidedField(ModelField(ToyModel(1), predict), 3.0)]
FIELDS = [*FIELDS, ModelField(ToyModel(2), predict)]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=12))
@torch.no_grad()
def test_mixed_routes_equal_rows_done_one_by_one(routes: list[int]) -> None:
    batch = len(routes)
    sample, sigma, condition = draw_sample(batch), torch.linspace(0.1, 0.9, batch), draw_condition(batch)
    mixed = routed_velocity(FIELDS, torch.tensor(routes), sample, sigma, condition)
    for b, route in enumerate(routes):
        row = torch.tensor([b])
        alone = FIELDS[route](sample[row], sigma[row], condition.take(row))
        torch.testing.assert_close(mixed[row], alone, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_one_call_per_field_that_is_present() -> None:
    recorders = [Recorder(field) for field in FIELDS]
    routed_velocity(recorders, torch.tensor([2, 0, 2, 2]), draw_sample(4), torch.ones(4), draw_condition(4))
    assert [recorder.batches for recorder in recorders] == [[1], [], [3]]


@torch.no_grad()
def test_routes_to_one_field_share_its_call() -> None:
    recorder = Recorder(FIELDS[0])
    sample, sigma, condition = draw_sample(4), torch.ones(4), draw_condition(4)
    routed = routed_velocity(
        [recorder, FIELDS[2], recorder], torch.tensor([2, 0, 2, 0]), sample, sigma, condition
    )
    assert recorder.batches == [4]
    assert torch.equal(routed, FIELDS[0](sample, sigma, condition))


@torch.no_grad()
def test_gradient_flows_only_to_the_fields_of_the_rows() -> None:
    models = [ToyModel(seed) for seed in range(2)]
    fields = [ModelField(model, predict) for model in models]
    with torch.enable_grad():
        routed = routed_velocity(
            fields, torch.tensor([0, 1, 0]), draw_sample(3), torch.ones(3), draw_condition(3)
        )
        routed[[0, 2]].sum().backward()
    assert models[0].last.weight.grad is not None and bool(models[0].last.weight.grad.any())
    assert models[1].last.weight.grad is None or not bool(models[1].last.weight.grad.any())


@pytest.mark.parametrize("index", [[0, 3], [-1, 0]])
def test_an_unknown_route_is_refused(index: list[int]) -> None:
    with pytest.raises(ValueError, match=r"index must hold at least one route, each in 0 \.\. 2, but got"):
        routed_velocity(FIELDS, torch.tensor(index), draw_sample(2), torch.ones(2), draw_condition(2))


def test_one_route_per_sample_is_asked_for() -> None:
    with pytest.raises(ValueError, match=r"index must have shape \[3\], but got \[2\]"):
        routed_velocity(FIELDS, torch.tensor([0, 1]), draw_sample(3), torch.ones(3), draw_condition(3))


def test_route_probabilities_are_normalised() -> None:
    assert route_probabilities([1.0, 2.0, 1.0]) == (0.25, 0.5, 0.25)
    assert route_probabilities([0.0, 3.0]) == (0.0, 1.0)


@pytest.mark.parametrize("weights", [[], [0.0], [1.0, -0.5], [math.nan, 1.0], [math.inf]])
def test_bad_route_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights must be finite"):
        route_probabilities(weights)
