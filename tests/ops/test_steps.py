"""The steps of second order: their equations, their order of accuracy, and what they leave alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch

from danceopd import ops
from tests.ops.cases import operands, same_bits

Tensor = torch.Tensor
double = torch.float64


def test_heun_is_the_mean_of_two_velocities() -> None:
    x, v, w = operands((2, 9), double)
    torch.testing.assert_close(ops.heun_step(x, v, w, 0.8, 0.5), x - 0.3 * (v + w) / 2)


def test_ab2_integrates_the_line_through_two_velocities() -> None:
    x, v, previous = operands((2, 9), double)

    def line(sigma: float) -> Tensor:  # through previous at 0.9 and v at 0.7
        return v + (sigma - 0.7) / (0.7 - 0.9) * (v - previous)

    expected = x + (0.4 - 0.7) * (line(0.7) + line(0.4)) / 2
    torch.testing.assert_close(ops.ab2_step(x, v, previous, 0.9, 0.7, 0.4), expected)
    guided = ops.ab2_step(x, v, previous, 0.9, 0.7, 0.4, uncond=x, guidance_scale=3.0)
    torch.testing.assert_close(guided, ops.ab2_step(x, ops.guide(x, v, 3.0), previous, 0.9, 0.7, 0.4))


def test_dpmpp_2m_predicts_the_clean_sample() -> None:
    x, v, previous = operands((2, 9), double)
    reached, clean = ops.dpmpp_2m_step(x, v, previous, 0.9, 0.7, 0.4)
    torch.testing.assert_close(clean, x - 0.7 * v)

    def lam(sigma: float) -> float:
        return math.log((1 - sigma) / sigma)

    # As the solver's paper has it: a ratio of steps r, and the two predictions extrapolated.
    r = (lam(0.7) - lam(0.9)) / (lam(0.4) - lam(0.7))
    both = (1 + 1 / (2 * r)) * clean - previous / (2 * r)
    expected = 0.4 / 0.7 * x - (1 - 0.4) * (math.exp(lam(0.7) - lam(0.4)) - 1) * both
    torch.testing.assert_close(reached, expected)


def test_first_and_last_steps_are_euler_steps() -> None:
    x, v, other = operands((2, 9), torch.float32)
    assert same_bits(ops.dpmpp_2m_step(x, v, None, None, 0.7, 0.4)[0], ops.euler_step(x, v, 0.7, 0.4))
    assert same_bits(ops.dpmpp_2m_step(x, v, other, 1.0, 0.7, 0.4)[0], ops.euler_step(x, v, 0.7, 0.4))
    assert same_bits(ops.dpmpp_2m_step(x, v, other, 0.9, 0.7, 0.0)[0], ops.euler_step(x, v, 0.7, 0.0))


def test_samples_that_do_not_move_stay_as_they_are() -> None:
    x, v, other = operands((3, 9), torch.float32)
    before, now = torch.tensor([0.5, 0.9, 0.6]), torch.tensor([0.5, 0.7, 0.6])
    then = torch.tensor([0.5, 0.4, 0.6])
    for step in (
        lambda: ops.ab2_step(x, v, other, before, now, then),
        lambda: ops.dpmpp_2m_step(x, v, other, before, now, then)[0],
        lambda: ops.heun_step(x, v, other, now, then),
    ):
        moved = step()
        assert torch.equal(moved[[0, 2]], x[[0, 2]]) and not torch.equal(moved[1], x[1])


def velocity(x: Tensor, sigma: float) -> Tensor:
    """Along dx/dsigma = 3 x cos(3 sigma), whose solution is x = x0 exp(sin(3 sigma))."""
    return 3.0 * x * math.cos(3.0 * sigma)


def final_error(steps: int, method: str) -> float:
    """Of a rollout from sigma 0.95 to 0.15 over uneven steps."""
    grid = [0.95 - 0.8 * (k / steps + 0.1 * math.sin(math.pi * k / steps)) for k in range(steps + 1)]
    x = torch.ones(1, 1, dtype=double)
    previous = clean = None
    for k, (now, then) in enumerate(itertools.pairwise(grid)):
        v = velocity(x, now)
        if method == "heun":
            x = ops.heun_step(x, v, velocity(ops.euler_step(x, v, now, then), then), now, then)
        elif method == "dpmpp":
            x, clean = ops.dpmpp_2m_step(x, v, clean, grid[k - 1], now, then)
        elif method == "euler" or previous is None:
            x = ops.euler_step(x, v, now, then)
        else:
            x = ops.ab2_step(x, v, previous, grid[k - 1], now, then)
        previous = v
    return abs(x.item() - math.exp(math.sin(0.45) - math.sin(2.85)))


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2), ("ab2", 2), ("dpmpp", 2)])
def test_order_of_accuracy(method: str, order: int) -> None:
    slopes = [math.log2(final_error(n, method) / final_error(2 * n, method)) for n in (64, 128)]
    assert slopes == pytest.approx([order, order], abs=0.15)


@pytest.mark.parametrize("place", ["floats", "tensors"])
def test_coefficients_are_computed_in_double(place: str) -> None:
    """A difference of close sigmas keeps its digits in a float32 step."""
    make: Callable[[float], float | Tensor] = (
        float if place == "floats" else lambda s: torch.tensor([s], dtype=double)
    )
    now, then = 0.7, 0.7 - 1e-9
    one = torch.ones(1, 4)
    moved = ops.heun_step(torch.zeros(1, 4), one, one, make(now), make(then))
    torch.testing.assert_close(moved, torch.full((1, 4), then - now), rtol=1e-6, atol=0)


def test_dpmpp_next_to_clean_is_the_step_to_clean() -> None:
    x, v, before = operands((2, 33), torch.float32)
    expected = ops.dpmpp_2m_step(x, v, before, 0.9, 0.5, 0.0)[0]
    for tiny in (5e-324, 1e-310, 1e-31):
        for module in (ops, ops.reference):
            torch.testing.assert_close(module.dpmpp_2m_step(x, v, before, 0.9, 0.5, tiny)[0], expected)
    almost = ops.dpmpp_2m_step(x, v, before, 0.9, 1e-29, 1e-30)[0]
    torch.testing.assert_close(almost, ops.reference.dpmpp_2m_step(x, v, before, 0.9, 1e-29, 1e-30)[0])
