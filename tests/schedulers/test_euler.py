"""The fused Euler scheduler against the stock one, step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from danceopd import ops
from tests.schedulers.stock import DEVICES, DTYPES, Tensor, assert_same_step, pair

CONFIGS = st.fixed_dictionaries(
    {},
    optional={
        "shift": st.sampled_from([0.5, 3.0, 12.0]),
        "use_dynamic_shifting": st.booleans(),
        "time_shift_type": st.sampled_from(["exponential", "linear"]),
        "shift_terminal": st.sampled_from([0.02, 0.1]),
        "invert_sigmas": st.booleans(),
        "stochastic_sampling": st.booleans(),
        "num_train_timesteps": st.sampled_from([1000, 50]),
    },
).flatmap(
    lambda config: st.sampled_from([{}, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}]).map(
        lambda spacing: config | spacing
    )
)


@settings(max_examples=150)
@given(
    config=CONFIGS,
    num_steps=st.integers(1, 12),
    mu=st.floats(0.1, 3.0),
    model=st.sampled_from(DTYPES),
    state=st.sampled_from(DTYPES),
    given_sigmas=st.booleans(),
)
def test_every_config_steps_as_in_diffusers(
    config: dict[str, Any],
    num_steps: int,
    mu: float,
    model: torch.dtype,
    state: torch.dtype,
    given_sigmas: bool,
) -> None:
    # diffusers stretches a one-step grid by 0 / 0, and by 1 / 0 where the last level is the first.
    assume(num_steps > 1 or "shift_terminal" not in config)
    grid: dict[str, Any] = {"mu": mu} if config.get("use_dynamic_shifting") else {}
    if given_sigmas:
        grid["sigmas"] = np.linspace(1.0, 1.0 / num_steps, num_steps).tolist()
    stock, fused = pair(config, num_steps, **grid)
    assert fused.config.keys() == stock.config.keys()
    assert torch.equal(fused.timesteps, stock.timesteps) and torch.equal(fused.sigmas, stock.sigmas)
    sample = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)).to(state)
    for _ in range(num_steps):
        sample = assert_same_step(stock, fused, sample, model)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_steps_on_the_device(device: str, dtype: torch.dtype) -> None:
    stock, fused = pair({"use_dynamic_shifting": True}, 6, device, mu=0.8)
    sample = torch.randn(2, 4, 33, 65, generator=torch.Generator().manual_seed(1)).to(device, dtype)
    for _ in range(6):
        sample = assert_same_step(stock, fused, sample, dtype)


def test_the_kernel_serves_ordinary_steps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    kernel = ops.euler_step

    def spy(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(args)
        return kernel(*args, **kwargs)

    monkeypatch.setattr(ops, "euler_step", spy)
    x = torch.randn(1, 4, 3)

    def steps(config: dict[str, Any], **extra: Any) -> int:
        stock, fused = pair(config, 3)
        before = len(calls)
        assert_same_step(stock, fused, x, torch.float32, **extra)
        return len(calls) - before

    assert steps({}) == 1
    assert steps({"shift": 3.0}, s_noise=0.5) == 1
    assert steps({"invert_sigmas": True}) == 0
    assert steps({"stochastic_sampling": True}) == 0
    assert steps({}, s_churn=0.1) == 0
    assert steps({}, per_token_timesteps=torch.tensor([[900.0, 500.0, 100.0, 0.0]])) == 0


@pytest.mark.parametrize(
    ("v", "x"),
    [
        (torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 3)),
        (torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)),
        (torch.randn(1, 3), torch.randn(2, 3)),
        (torch.randn(0, 3), torch.randn(0, 3)),
        (torch.randn(()), torch.randn(())),
        (torch.randn(4, 6)[:, ::2], torch.randn(3, 4).T),
    ],
    ids=["float64-velocity", "float64", "broadcast", "empty", "scalar", "strided"],
)
def test_operands_of_every_kind(v: Tensor, x: Tensor) -> None:
    stock, fused = pair({"shift": 3.0}, 3)
    theirs, ours = (s.step(v, s.timesteps[0], x, return_dict=False)[0] for s in (stock, fused))
    assert ours.dtype == theirs.dtype
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("timestep", [1, torch.tensor([1])])
def test_an_index_is_refused_as_in_diffusers(timestep: Any) -> None:
    _, fused = pair({}, 3)
    with pytest.raises(ValueError, match="integer indices"):
        fused.step(torch.zeros(1, 2), timestep, torch.zeros(1, 2))


def test_a_step_beyond_the_grid_is_refused_as_in_diffusers() -> None:
    _, fused = pair({}, 2)
    x = torch.zeros(1, 2)
    for t in fused.timesteps:
        fused.step(x, t, x)
    with pytest.raises(IndexError):
        fused.step(x, fused.timesteps[0], x)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_changed_grid_is_seen(mode: Any) -> None:
    with mode():
        stock, fused = pair({}, 4)
        sample = assert_same_step(stock, fused, torch.randn(1, 3), torch.float32)
        for s in (stock, fused):
            s.sigmas[2] = 0.3  # in place
        sample = assert_same_step(stock, fused, sample, torch.float32)
        for s in (stock, fused):
            s.sigmas = torch.tensor([1.0, 0.9, 0.3, 0.1, 0.0])
        sample = assert_same_step(stock, fused, sample, torch.float32)
        for s in (stock, fused):
            s.set_timesteps(2)
        assert_same_step(stock, fused, sample, torch.float32)


def test_starts_where_it_is_told_to() -> None:
    stock, fused = pair({"shift": 3.0}, 5)
    for s in (stock, fused):
        s.set_begin_index(2)
    x = torch.randn(1, 3)
    assert_same_step(stock, fused, x, torch.float32)
    assert fused.step_index == 3
    stock, fused = pair({"shift": 3.0}, 5)
    t = fused.timesteps[3]
    fused.step(x, t, x)
    assert fused.step_index == 4


def test_gradients_flow_through_a_step() -> None:
    stock, fused = pair({}, 3)
    v, x = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    theirs, ours = (
        torch.autograd.grad(s.step(v, s.timesteps[0], x).prev_sample.square().sum(), (v, x))
        for s in (stock, fused)
    )
    torch.testing.assert_close(ours, theirs)


# -- second order --------------------------------------------------------------------------------------------
