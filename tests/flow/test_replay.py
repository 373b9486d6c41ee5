"""Replayed forwards, recorded by a stand-in on the CPU and as CUDA graphs where there is a device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from danceopd.flow import GuidedField, ModelField, Replayed, SigmaGrid, replayed, rollout
from danceopd.flow.replay import record_on_cuda
from danceopd.settings import ConfigError
from tests.flow.recording import OnTheHost
from tests.flow.toys import ToyModel, draw_condition, draw_sample, predict

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def rolled(field: Any, stops: list[int], width: int, device: torch.device = CPU) -> Tensor:
    noise, condition = draw_sample(len(stops)).to(device), draw_condition(len(stops)).to(device)
    grid = SigmaGrid.uniform(4)
    return rollout(field, noise, grid, condition, stop=torch.tensor(stops), batch_size=width).sample


def test_a_replayed_rollout_is_the_same_in_few_recordings() -> None:
    field = ModelField(ToyModel(), predict)
    host = OnTheHost()
    again = replayed(field, host)
    for stops in ([4, 3, 4, 2, 1, 4, 2], [1, 1, 4], [4, 4, 4, 4, 4]):
        for scale in (1.0, 3.0):
            wanted = rolled(GuidedField(field, scale), stops, 5)
            found = rolled(GuidedField(again, scale), stops, 5)
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    # Of 1, 2, 4, 8 and, under guidance, 16 samples.
    assert 4 <= host.recorded <= 5
    assert host.replays > 20


def test_forwards_with_gradient_are_not_replayed() -> None:
    model, host = ToyModel(), OnTheHost()
    field = replayed(ModelField(model, predict), host)
    field(draw_sample(3), torch.full((3,), 0.5), draw_condition(3)).square().sum().backward()
    assert host.recorded == 0
    assert all(parameter.grad is not None for parameter in model.parameters())


@torch.no_grad()
def test_weights_may_change_in_place_and_move() -> None:
    model, host = ToyModel(), OnTheHost()
    field = ModelField(model, predict)
    again = replayed(field, host)
    arguments = draw_sample(2), torch.full((2,), 0.5), draw_condition(2)
    before = again(*arguments)
    model.last.bias += 1.0
    torch.testing.assert_close(again(*arguments), field(*arguments))
    assert host.recorded == 1 and not torch.equal(before, again(*arguments))
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    torch.testing.assert_close(again(*arguments), field(*arguments))
    assert host.recorded == 2


@torch.no_grad()
def test_an_output_outlives_the_next_replay() -> None:
    field = replayed(ModelField(ToyModel(), predict), OnTheHost())
    first = field(draw_sample(2), torch.full((2,), 0.5), draw_condition(2))
    kept = first.clone()
    field(draw_sample(2, seed=9), torch.full((2,), 0.1), draw_condition(2, seed=9))
    assert torch.equal(first, kept)


@torch.no_grad()
def test_the_least_used_recording_is_dropped() -> None:
    host = OnTheHost()
    field = ModelField(ToyModel(), Replayed(predict, host, most=2))

    def ask(count: int) -> None:
        field(draw_sample(count), torch.full((count,), 0.5), draw_condition(count))

    for count in (1, 2, 1, 4, 1):
        ask(count)
    assert host.recorded == 3
    ask(2)
    assert host.recorded == 4


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_graphs_compute_the_same(dtype: torch.dtype) -> None:
    model = ToyModel().to(CUDA, dtype)
    field = ModelField(model, predict)
    again = replayed(field)
    for stops in ([4, 3, 4, 2, 1, 4, 2], [1, 1, 4]):
        wanted, found = (rolled(GuidedField(one, 3.0), stops, 4, CUDA) for one in (field, again))
        torch.testing.assert_close(found, wanted, rtol=2e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-2)
    with torch.no_grad():
        model.last.bias += 1.0
    torch.testing.assert_close(rolled(again, [4, 2], 2, CUDA), rolled(field, [4, 2], 2, CUDA))


@pytest.mark.gpu
def test_what_cuda_cannot_record_is_told() -> None:
    value = torch.ones(1, device=CUDA)
    with pytest.raises(ConfigError, match=r"^compile='graphs' cannot record .* set it to 'blocks'"):
        record_on_cuda(lambda: value * float(value))
