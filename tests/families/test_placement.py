"""A teacher that waits keeps its weights where they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from danceopd.families.placement import OffloadedField, _in_pieces, hold_pinned, pack
from danceopd.flow import ModelField

torch.set_num_threads(1)


def model() -> nn.Module:
    layers = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 5, dtype=torch.float32))
    return layers.eval().requires_grad_(False)


def predict(model: nn.Module, sample: Tensor, sigma: Tensor, condition: Any) -> Tensor:
    return model(sample)


def parts(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def test_weights_are_copied_to_the_device_and_never_back() -> None:
    net = model()
    before = {name: (part, part.data_ptr()) for name, part in parts(net).items()}
    # What goes to this device has no values: copied back, it would have none.
    field = OffloadedField(ModelField(net, predict), net, torch.device("meta"))
    assert field(torch.ones(3, 5, device="meta"), torch.ones(3), None).device.type == "meta"
    for name, part in parts(net).items():
        assert part is before[name][0] and part.data_ptr() == before[name][1], name
    with pytest.raises(RuntimeError):
        field(torch.ones(3, 4, device="meta"), torch.ones(3), None)
    assert all(part.device.type == "cpu" for part in parts(net).values())


def test_packed_weights_are_the_same_and_lie_in_one_piece() -> None:
    net = model().to(torch.bfloat16)
    sample = torch.randn(3, 5).to(torch.bfloat16)
    wanted, values = net(sample), {name: value.clone() for name, value in net.named_parameters()}
    groups = list(_in_pieces(list(net.parameters()), 1024))
    assert [len(group) for group in groups] == [4, 2]
    assert [len(group) for group in _in_pieces(list(net.parameters()), 1)] == [1] * 6
    memory = [torch.empty(256 * len(group), dtype=torch.uint8) for group in groups]
    for group, place in zip(groups, memory, strict=True):
        pack(group, place)
    assert torch.equal(net(sample), wanted)
    assert all(torch.equal(value, values[name]) for name, value in net.named_parameters())
    assert {value.untyped_storage().data_ptr() for value in net.parameters()} == {
        place.untyped_storage().data_ptr() for place in memory
    }
    assert all(value.data_ptr() % 2 == 0 for value in net.parameters())


@pytest.mark.gpu
def test_a_gpu_reads_from_pinned_memory() -> None:
    net, device = model(), torch.device("cuda")
    wanted = net(torch.ones(3, 5))
    hold_pinned(net)
    assert all(value.is_pinned() for value in net.parameters())
    field = OffloadedField(ModelField(net, predict), net, device)
    got = field(torch.ones(3, 5, device=device), torch.ones(3), None)
    torch.testing.assert_close(got.cpu(), wanted)
    assert all(value.is_pinned() for value in net.parameters())
