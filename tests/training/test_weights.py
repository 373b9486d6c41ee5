from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from danceopd.training import CheckpointError, ConfigError, TrainConfig
from danceopd.training.weights import RunningMean, TrainedWeights

CONFIG = TrainConfig(output_dir="x", learning_rate=1e-4)


def _net(dtype: torch.dtype = torch.float32) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2).to(dtype)


def _one_update(net: nn.Module, weights: TrainedWeights, seed: int) -> None:
    inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))
    net(inputs.to(next(net.parameters()).dtype)).square().mean().backward()
    weights.step(1e-4)


def test_fp32_parameters_are_their_own_masters_and_match_plain_adamw() -> None:
    net, twin = _net(), _net()
    weights = TrainedWeights(net, CONFIG)
    plain = torch.optim.AdamW(twin.parameters(), lr=1e-4, weight_decay=0.0)
    for seed in range(3):
        _one_update(net, weights, seed)
        inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))
        twin(inputs).square().mean().backward()
        plain.step()
        plain.zero_grad()
    assert torch.equal(net.weight, twin.weight)
    assert weights.masters["weight"] is net.weight


def test_updates_too_small_for_bf16_add_up_in_the_master() -> None:
    net = _net(torch.bfloat16)
    net.weight.data.fill_(1.0)
    before = net.weight.detach().clone()
    weights = TrainedWeights(net, CONFIG)
    for _ in range(8):
        net.weight.square().sum().backward()
        weights.step(1e-4)  # bf16 near 1 has steps of 4e-3
    assert torch.equal(net.weight, before)
    assert torch.allclose(weights.masters["weight"], before.float() - 8e-4, atol=2e-5)
    for _ in range(60):
        net.weight.square().sum().backward()
        weights.step(1e-4)
    assert (net.weight < before).all()
    assert net.weight.dtype == torch.bfloat16


def test_bf16_gradients_of_several_passes_are_summed_in_fp32() -> None:
    net = _net(torch.bfloat16)
    weights = TrainedWeights(net, CONFIG)
    for _ in range(400):
        (net.bias.float() * 0.01).sum().backward()
    gradient = weights.masters["bias"].grad
    assert gradient is not None and gradient.dtype == torch.float32
    # In bf16 the sum would get stuck at about 2, where 0.01 is less than half a step.
    assert gradient.tolist() == pytest.approx([400 * float(torch.tensor(0.01).bfloat16())] * 2, rel=1e-5)
    assert net.bias.grad is None


def test_clip_returns_the_norm_before_and_scales_to_the_limit() -> None:
    net = _net()
    weights = TrainedWeights(net, CONFIG)
    (net.weight.sum() * 3.0).backward()
    norm = 3.0 * 6**0.5
    assert weights.clip(None) == pytest.approx(norm)
    assert weights.clip(1.0) == pytest.approx(norm)
    assert weights.clip(None) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_is_carried_over_bit_for_bit(dtype: torch.dtype) -> None:
    net, other = _net(dtype), _net(dtype)
    nn.init.zeros_(other.weight)
    weights, continued = TrainedWeights(net, CONFIG), TrainedWeights(other, CONFIG)
    _one_update(net, weights, 0)
    continued.load(
        {name: value.detach().clone() for name, value in weights.masters.items()},
        {name: value.clone() for name, value in weights.optimizer_tensors().items()},
    )
    assert torch.equal(net.weight, other.weight)
    _one_update(net, weights, 1)
    _one_update(other, continued, 1)
    for name, master in weights.masters.items():
        assert torch.equal(master, continued.masters[name])
    for name, value in weights.optimizer_tensors().items():
        assert torch.equal(value, continued.optimizer_tensors()[name])


def test_nothing_to_train_and_half_precision_are_refused() -> None:
    with pytest.raises(ConfigError, match="no trainable parameter"):
        TrainedWeights(_net().requires_grad_(False), CONFIG)
    with pytest.raises(ConfigError, match=r"'weight' is torch\.float16.*float32 or bfloat16"):
        TrainedWeights(_net(torch.float16), CONFIG)


@pytest.mark.parametrize(
    ("saved", "words"),
    [
        ({"weight": torch.zeros(2, 3)}, "'bias' is missing in the checkpoint"),
        ({"weight": torch.zeros(2, 4), "bias": torch.zeros(2)}, r"'weight' is \(2, 4\) in the checkpoint"),
        (
            {"weight": torch.zeros(2, 3), "bias": torch.zeros(2), "more": torch.zeros(1)},
            "'more' is .* missing in the student",
        ),
    ],
)
def test_weights_of_another_model_are_refused(saved: dict[str, Tensor], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        TrainedWeights(_net(), CONFIG).load(saved, {})


def test_running_mean_forgets_the_start_early_and_then_decays_as_told() -> None:
    mean = RunningMean({"w": torch.zeros(1)}, decay=0.5)
    expected = 0.0
    for step in range(20):
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * (step + 1.0)
        mean.update({"w": torch.full((1,), step + 1.0)}, step)
    assert float(mean.mean["w"]) == pytest.approx(expected, rel=1e-5)
