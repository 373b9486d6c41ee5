from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danceopd.flow import SigmaGrid, shift_sigma

shifts = st.floats(0.05, 20.0)


@settings(deadline=None)
@given(st.integers(1, 200), shifts)
def test_a_grid_falls_from_noise_to_clean(num_steps: int, shift: float) -> None:
    grid = SigmaGrid.shifted(num_steps, shift)
    assert grid.num_steps == num_steps == len(grid.values) - 1
    assert grid.values[0] == 1.0 and grid.values[-1] == 0.0
    assert all(high > low for high, low in zip(grid.values, grid.values[1:], strict=False))


def test_uniform_steps_are_equal() -> None:
    assert SigmaGrid.uniform(4).values == (1.0, 0.75, 0.5, 0.25, 0.0)
    assert SigmaGrid.uniform(4) == SigmaGrid.shifted(4, 1.0)


def test_shift_three_is_the_grid_of_sd3_and_z_image() -> None:
    assert SigmaGrid.shifted(4, 3.0).values == pytest.approx((1.0, 0.9, 0.75, 0.5, 0.0), abs=1e-15)


@settings(deadline=None)
@given(st.floats(0.0, 1.0), shifts)
def test_shifting_back_returns(sigma: float, shift: float) -> None:
    assert shift_sigma(shift_sigma(sigma, shift), 1.0 / shift) == pytest.approx(sigma, abs=1e-12)


def test_the_tensor_is_fp32() -> None:
    levels = SigmaGrid.uniform(3).tensor()
    assert levels.dtype == torch.float32
    assert levels.tolist() == pytest.approx([1.0, 2 / 3, 1 / 3, 0.0], abs=1e-7)


@pytest.mark.parametrize(
    "values",
    [(), (1.0,), (0.9, 0.0), (1.0, 0.1), (1.0, 0.5, 0.5, 0.0), (1.0, 0.2, 0.6, 0.0), (1.0, math.nan, 0.0)],
)
def test_a_broken_grid_is_refused(values: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"^values must .*; .*\.$"):
        SigmaGrid(values)


@pytest.mark.parametrize("num_steps", [0, -3])
def test_no_steps_are_refused(num_steps: int) -> None:
    with pytest.raises(ValueError, match=f"num_steps must be at least 1, but got {num_steps}"):
        SigmaGrid.uniform(num_steps)


@pytest.mark.parametrize("shift", [0.0, -1.0, math.inf, math.nan])
def test_a_bad_shift_is_refused(shift: float) -> None:
    with pytest.raises(ValueError, match="shift must be"):
        SigmaGrid.shifted(4, shift)
