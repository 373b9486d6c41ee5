"""The matching loss: its definition, its masks and weights, and what has to be exact."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from danceopd import ops
from tests.ops.cases import DTYPES, operands, same_bits


def test_definition() -> None:
    student, teacher, uncond = operands((3, 4, 5), torch.float64)
    weight = torch.tensor([0.5, 2.0, 0.0], dtype=torch.float64)
    mask = torch.rand(3, 1, 5, dtype=torch.float64)
    target = uncond + 3.0 * (teacher - uncond)
    expected = (weight[:, None, None] * mask * (student - target) ** 2).sum() / student.numel()
    loss = ops.velocity_mse(student, teacher, uncond=uncond, guidance_scale=3.0, weight=weight, mask=mask)
    torch.testing.assert_close(loss, expected)
    each, gradient = ops.velocity_mse_with_grad(
        student, teacher, uncond=uncond, guidance_scale=3.0, weight=weight, mask=mask
    )
    torch.testing.assert_close(each.mean(), expected)
    torch.testing.assert_close(
        gradient, 2 * weight[:, None, None] * mask * (student - target) / student.numel()
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1.0, 4.5])
def test_teacher_equal_to_student_gives_exactly_zero(dtype: torch.dtype, scale: float) -> None:
    x = operands((2, 5000), dtype)[0] * 7
    uncond = x.clone() if scale != 1.0 else None  # guidance between equal fields changes nothing
    loss, gradient = ops.velocity_mse_with_grad(x, x.clone(), uncond=uncond, guidance_scale=scale)
    assert torch.count_nonzero(loss) == 0 and torch.count_nonzero(gradient) == 0
    assert ops.velocity_mse(x, x.clone(), uncond=uncond, guidance_scale=scale) == 0


@given(
    shape=st.sampled_from([(2, 3, 4, 5), (3, 1, 7), (2, 6, 1, 5), (1, 2, 3, 4), (4, 9), (3, 2, 1100)]),
    kept=st.integers(0, 31),
    lead=st.integers(0, 3),
    kind=st.sampled_from([torch.bool, torch.float32, torch.bfloat16, torch.float64]),
    dtype=st.sampled_from(DTYPES),
)
def test_masks_broadcast_like_torch(
    shape: tuple[int, ...], kept: int, lead: int, kind: torch.dtype, dtype: torch.dtype
) -> None:
    student, teacher, _ = operands(shape, dtype)
    mask_shape = [size if kept >> d & 1 else 1 for d, size in enumerate(shape)]
    while lead > 0 and len(mask_shape) > 1 and mask_shape[0] == 1:  # shorter masks align at the end
        mask_shape, lead = mask_shape[1:], lead - 1
    generator = torch.Generator().manual_seed(kept)
    mask = (torch.rand(mask_shape, generator=generator) > 0.5).to(kind)
    each, gradient = ops.velocity_mse_with_grad(student, teacher, mask=mask)
    plain, plain_gradient = ops.reference.velocity_mse_with_grad(student, teacher, mask=mask)
    torch.testing.assert_close(each, plain)
    torch.testing.assert_close(gradient, plain_gradient)
    full = mask.expand(shape).clone()
    assert same_bits(each, ops.velocity_mse_with_grad(student, teacher, mask=full)[0])


def test_mask_keeps_the_divisor() -> None:
    student, teacher = torch.ones(2, 10), torch.zeros(2, 10)
    mask = torch.zeros(10, dtype=torch.bool)
    mask[:3] = True
    assert ops.velocity_mse(student, teacher, mask=mask).item() == pytest.approx(0.3)


def test_nan_reaches_the_loss_of_its_sample_only() -> None:
    student, teacher, _ = operands((3, 5000), torch.float32)
    student[1, 4321] = math.nan
    each, gradient = ops.velocity_mse_with_grad(student, teacher)
    assert each.isnan().tolist() == [False, True, False]
    assert gradient.isnan().sum() == 1
    assert ops.velocity_mse(student, teacher).isnan()


def test_scalar_is_the_mean_of_the_samples() -> None:
    student, teacher, _ = operands((5, 777), torch.bfloat16)
    each = ops.velocity_mse_with_grad(student, teacher)[0]
    assert torch.equal(ops.velocity_mse(student, teacher), each.double().mean().float())
    many = torch.rand(1000, 3)  # more samples than the final pass has lanes
    each = ops.velocity_mse_with_grad(many, many + 1)[0]
    assert torch.equal(ops.velocity_mse(many, many + 1), each.double().mean().float())


def test_grad_scale_is_applied_before_rounding() -> None:
    student, teacher = torch.full((1, 4096), 0.1, dtype=torch.float16), torch.zeros(1, 4096)
    small = ops.velocity_mse_with_grad(student * 1e-2, teacher)[1]
    assert torch.count_nonzero(small) > 0
    scaled = ops.velocity_mse_with_grad(student * 1e-2, teacher, grad_scale=1024.0)[1]
    exact = 2 * 1024.0 * (student * 1e-2).double() / 4096
    assert (scaled.double() - exact).abs().max() <= exact.max() * 2**-11
    assert (small.double() * 1024 - exact).abs().max() > exact.max() * 2**-11
    a = ops.velocity_mse_with_grad(student, teacher, grad_scale=0.25)[0]
    assert torch.equal(a, ops.velocity_mse_with_grad(student, teacher)[0])


def test_student_that_requires_grad_is_fine_for_the_explicit_gradient() -> None:
    student = torch.randn(2, 30, requires_grad=True)
    teacher = torch.randn(2, 30)
    each, gradient = ops.velocity_mse_with_grad(student, teacher)
    assert not each.requires_grad and not gradient.requires_grad
    ops.velocity_mse(student, teacher).backward()
    assert student.grad is not None
    torch.testing.assert_close(student.grad, gradient)


def test_large_sums_stay_exact() -> None:
    student = torch.ones(1, 3_000_001)
    assert ops.velocity_mse(student, torch.zeros_like(student)).item() == 1.0
