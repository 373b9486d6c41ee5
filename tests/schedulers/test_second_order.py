"""The second-order scheduler: its formula, its order, and when it starts again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
)

from danceopd.schedulers import FusedFlowMatchAB2Scheduler, FusedFlowMatchEulerScheduler
from tests.schedulers.stock import DEVICES, DTYPES, Tensor, assert_same_step, velocity


class GaussianFlow:
    """The exact velocity field and trajectories where the data are normal, N(mean, spread^2).

    A state at sigma is N((1 - sigma) mean, variance(sigma)), and a trajectory keeps its standardised value.
    """

    def __init__(self, spread: float) -> None:
        self.mean, self.spread = 0.7, spread

    def variance(self, sigma: float) -> float:
        return (1.0 - sigma) ** 2 * self.spread**2 + sigma**2

    def velocity(self, x: Tensor, sigma: float) -> Tensor:
        slope = (sigma - (1.0 - sigma) * self.spread**2) / self.variance(sigma)
        return slope * (x - (1.0 - sigma) * self.mean) - self.mean

    def clean(self, noise: Tensor) -> Tensor:
        return self.mean + self.spread * noise


def error(kind: type[Any], num_steps: int, spread: float, device: str = "cpu", **config: Any) -> float:
    """Root mean square distance from the exact clean states after so many steps."""
    flow, scheduler = GaussianFlow(spread), kind(**config)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1.0 / num_steps, num_steps).tolist(), device=device)
    noise = torch.randn(4, 256, generator=torch.Generator().manual_seed(3)).to(device)
    x = noise
    for t in scheduler.timesteps:
        sigma = float(t) / 1000.0
        v = -flow.velocity(x, 1.0 - sigma) if config.get("invert_sigmas") else flow.velocity(x, sigma)
        x = scheduler.step(v, t, x).prev_sample
    return float((x - flow.clean(noise)).square().mean().sqrt())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("config", [{}, {"shift": 3.0}, {"invert_sigmas": True}], ids=str)
def test_the_error_falls_with_the_square_of_the_steps(config: dict[str, Any], device: str) -> None:
    steps = (16, 32, 64, 128)
    for kind, order in ((FusedFlowMatchEulerScheduler, 1.0), (FusedFlowMatchAB2Scheduler, 2.0)):
        errors = [error(kind, n, 0.3, device, **config) for n in steps]
        slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
        assert -slope == pytest.approx(order, abs=0.25), (kind.__name__, errors)


@pytest.mark.parametrize("config", [{}, {"shift": 3.0}], ids=str)
@pytest.mark.parametrize("num_steps", [12, 16, 28, 50])
def test_half_the_steps_reach_eulers_error(config: dict[str, Any], num_steps: int) -> None:
    euler = error(FlowMatchEulerDiscreteScheduler, num_steps, 0.5, **config)
    assert error(FusedFlowMatchAB2Scheduler, num_steps // 2, 0.5, **config) <= euler


def ab2(x: Tensor, v: Tensor, earlier: Tensor, sigmas: list[float]) -> Tensor:
    before, now, then = sigmas
    d = then - now
    return x + d * (v + d / (2.0 * (now - before)) * (v - earlier))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_second_order_step_is_the_formula(dtype: torch.dtype) -> None:
    scheduler = FusedFlowMatchAB2Scheduler(shift=3.0)
    scheduler.set_timesteps(5)
    sigmas, x, earlier = scheduler.sigmas.tolist(), torch.randn(2, 3, 7).to(dtype), None
    for i, t in enumerate(scheduler.timesteps):
        v = velocity(x, t, dtype)
        exact = x.double() + (sigmas[i + 1] - sigmas[i]) * v.double()
        if earlier is not None:
            exact = ab2(x.double(), v.double(), earlier.double(), sigmas[i - 1 : i + 2])
        following = scheduler.step(v, t, x).prev_sample
        assert following.dtype == dtype
        torch.testing.assert_close(following.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-6)
        # A model in a CUDA graph writes its next output over this one.
        x, earlier = following, v.clone()
        v.fill_(torch.nan)


def run(scheduler: Any, x: Tensor, steps: int | None = None) -> Tensor:
    for t in scheduler.timesteps[:steps]:
        x = scheduler.step(velocity(x, t, x.dtype), t, x).prev_sample
    return x


def test_a_new_grid_forgets_the_old_one() -> None:
    x, used = torch.randn(1, 5), FusedFlowMatchAB2Scheduler()
    for stopped in (None, 1, 3):
        used.set_timesteps(4)
        run(used, x, stopped)
        fresh = FusedFlowMatchAB2Scheduler()
        for scheduler in (used, fresh):
            scheduler.set_timesteps(4)
            scheduler.set_begin_index(stopped or 0)  # where the old history would fit
        t = fresh.timesteps[stopped or 0]
        v = velocity(x, t, x.dtype)
        assert torch.equal(used.step(v, t, x).prev_sample, fresh.step(v, t, x).prev_sample)


def int16(timestep: float) -> torch.Tensor:
    return torch.tensor(int(timestep), dtype=torch.int16)


@pytest.mark.parametrize(
    "kind", [float, np.float32, np.float64, np.int64, np.int32, np.uint16, np.array, torch.tensor, int16]
)
def test_any_timestep_gets_the_second_order(kind: Any) -> None:
    scheduler, x = FusedFlowMatchAB2Scheduler(), torch.randn(2, 5)
    sigmas = [1.0, 0.7, 0.5, 0.2]  # whole timesteps, for the kinds that have no others
    scheduler.set_timesteps(sigmas=sigmas)
    expected = run(scheduler, x)
    scheduler.set_timesteps(sigmas=sigmas)
    for t in scheduler.timesteps:
        x = scheduler.step(velocity(x, t, x.dtype), kind(t.item()), x).prev_sample
    assert torch.equal(x, expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(1, 5), (3, 5), (2, 5, 1), (10,)], ids=str)
def test_a_changed_batch_starts_with_euler_again(shape: tuple[int, ...], device: str) -> None:
    scheduler, euler = FusedFlowMatchAB2Scheduler(), FusedFlowMatchEulerScheduler()
    for s in (scheduler, euler):
        s.set_timesteps(4)
    t, x = scheduler.timesteps, torch.randn(2, 5)
    x = scheduler.step(velocity(x, t[0], x.dtype), t[0], x).prev_sample
    scheduler.step(velocity(x, t[1], x.dtype), t[1], x)
    x = torch.randn(shape, device=device)
    v = velocity(x, t[2], x.dtype)
    euler.set_begin_index(2)
    first = scheduler.step(v, t[2], x).prev_sample
    assert torch.equal(first, euler.step(v, t[2], x).prev_sample)
    then = velocity(first, t[3], x.dtype)
    exact = ab2(first, then, v, scheduler.sigmas[2:5].tolist())
    torch.testing.assert_close(scheduler.step(then, t[3], first).prev_sample, exact)


@pytest.mark.gpu
def test_a_changed_device_starts_with_euler_again() -> None:
    scheduler, euler = FusedFlowMatchAB2Scheduler(), FusedFlowMatchEulerScheduler()
    for s in (scheduler, euler):
        s.set_timesteps(4)
    t, x = scheduler.timesteps, torch.randn(2, 5)
    v = velocity(x, t[0], x.dtype)
    results = [
        [s.step(w, t[i], y).prev_sample for i, (w, y) in enumerate([(v, x), (v.cuda(), x.cuda())])]
        for s in (scheduler, euler)
    ]
    assert torch.equal(results[0][1], results[1][1])


def test_a_finished_run_holds_no_velocity() -> None:
    scheduler = FusedFlowMatchAB2Scheduler()
    scheduler.set_timesteps(3)
    run(scheduler, torch.randn(1, 5))
    assert scheduler._previous is None


def test_levels_that_stay_are_survived() -> None:
    scheduler = FusedFlowMatchAB2Scheduler()
    scheduler.set_timesteps(sigmas=[1.0, 0.6, 0.6, 0.2, 0.0])
    scheduler.set_begin_index(0)
    x = torch.randn(1, 5)
    for t in scheduler.timesteps:
        x = scheduler.step(velocity(x, t, x.dtype), t, x).prev_sample
        assert bool(x.isfinite().all())


@pytest.mark.parametrize(
    "config", [{"stochastic_sampling": True}, {"stochastic_sampling": True, "shift": 3.0}]
)
def test_stochastic_sampling_is_the_stock_step(config: dict[str, Any]) -> None:
    stock, fused = FlowMatchEulerDiscreteScheduler(**config), FusedFlowMatchAB2Scheduler(**config)
    for s in (stock, fused):
        s.set_timesteps(4)
    x = torch.randn(1, 5)
    for _ in range(4):
        x = assert_same_step(stock, fused, x, torch.float32)


def test_gradients_flow_to_the_earlier_velocity() -> None:
    scheduler = FusedFlowMatchAB2Scheduler()
    scheduler.set_timesteps(3)
    first, second = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    t, x = scheduler.timesteps, torch.randn(2, 3)
    after = scheduler.step(second, t[1], scheduler.step(first, t[0], x).prev_sample).prev_sample
    # Both steps are -1/3 wide: x - first / 3 - (3 / 2 second - 1 / 2 first) / 3.
    to_first, to_second = torch.autograd.grad(after.sum(), (first, second))
    width = scheduler.sigmas.diff().tolist()
    ratio = width[1] / (2.0 * width[0])
    torch.testing.assert_close(to_first, torch.full((2, 3), width[0] - width[1] * ratio))
    torch.testing.assert_close(to_second, torch.full((2, 3), width[1] * (1.0 + ratio)))


# -- configs and files ---------------------------------------------------------------------------------------
