"""The stochastic step: its equations, its noise as random numbers, its gradients; and its objective."""

from __future__ import annotations

import math

import pytest
import torch

from danceopd import ops
from danceopd.ops._philox import normals, philox
from tests.ops.cases import DTYPES, operands, same_bits

Tensor = torch.Tensor
double = torch.float64


def drawn(count: int, seed: int | Tensor, batch: int = 1) -> Tensor:
    """The noise itself: with these levels the step's standard deviation is exactly 1/2 and its mean 0."""
    zero = torch.zeros(batch, count)
    return 2.0 * ops.sde_step(zero, zero, 0.5, 0.25, noise_level=1.0, seed=seed).sample


# -- the noise -----------------------------------------------------------------------------------------------


def test_known_answers_of_philox() -> None:
    """The test vectors published with the generator, whose counters have zeros in the upper half."""
    words = [int(w) for w in philox(torch.tensor([0]), 0)]
    assert words == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


def test_kernels_draw_what_the_reference_draws() -> None:
    for seed in (0, 1, 2**32 + 5, 2**63 - 1):
        torch.testing.assert_close(
            drawn(5003, seed), normals((1, 5003), seed, torch.device("cpu")), rtol=2e-6, atol=2e-6
        )


def test_distribution_is_normal() -> None:
    count = 1_000_000
    z = drawn(count, 12345)[0].double()
    assert bool(z.isfinite().all())
    error = count**-0.5  # of a mean, in standard deviations of what is averaged
    for power, mean, spread in ((1, 0, 1), (2, 1, 2**0.5), (3, 0, 15**0.5), (4, 3, 96**0.5)):
        assert abs(float((z**power).mean()) - mean) < 4 * spread * error
    ordered = z.sort().values
    normal = 0.5 * (1 + torch.erf(ordered / math.sqrt(2)))
    distance = (normal - torch.arange(1, count + 1) / count).abs().max()
    assert float(distance) < 1.63 * error  # Kolmogorov-Smirnov at 1 %
    assert 4.5 < float(z.abs().max()) < 6.7


def test_neighbours_seeds_and_squares_are_independent() -> None:
    count = 1_000_000
    z = drawn(count, 7)[0].double()
    others = [drawn(count, seed)[0].double() for seed in (8, 7 + 2**32)]
    limit = 4.5 * count**-0.5
    for lag in (1, 2, 3, 4, 5, 8, 1024):
        a, b = z[:-lag], z[lag:]
        assert abs(float((a * b).mean())) < limit
        assert abs(float(((a**2 - 1) * (b**2 - 1)).mean())) < 2 * limit
    assert all(abs(float((z * other).mean())) < limit for other in others)


def test_noise_depends_on_seed_and_place_alone() -> None:
    whole = drawn(10_007, 3)
    assert same_bits(drawn(4099, 3), whole[:, :4099])
    assert same_bits(drawn(13, 3, batch=7).view(-1), whole[0, : 7 * 13])  # one stream for the batch
    own = drawn(1001, torch.tensor([5, 3, 9]), batch=3)  # a stream for each sample
    assert same_bits(own[1], whole[0, :1001])
    assert same_bits(own[2], drawn(1001, 9)[0])


def test_noise_keeps_its_bits_when_threads_differ() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = drawn(100_003, 11, batch=3)
        torch.set_num_threads(3)
        assert same_bits(drawn(100_003, 11, batch=3), alone)
    finally:
        torch.set_num_threads(threads)


# -- the step ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sigma", "then"), [(0.8, 0.6), (1.0, 0.9), (0.99995, 0.0), (0.3, 0.3), (0.05, 0.0), (0.0, 0.0)]
)
def test_equations(sigma: float, then: float) -> None:
    x, v, z = operands((2, 50), double)
    eta = 0.7
    now = min(max(sigma, 1e-4), 1.0)
    d = then - now
    s = now if now < 0.9999 else min(max(then, 1e-4), 0.999)
    std = eta * math.sqrt(now / max(1 - s, 1e-4))
    mean = x * (1 + std**2 / (2 * now) * d) + v * (1 + std**2 * (1 - now) / (2 * now)) * d
    spread = std * math.sqrt(max(-d, 1e-6))
    log_prob = -(z**2) / 2 - math.log(spread) - 0.5 * math.log(2 * math.pi)
    step = ops.sde_step(x, v, sigma, then, noise=z)
    torch.testing.assert_close(step.mean, mean)
    torch.testing.assert_close(step.sample, mean + spread * z)
    torch.testing.assert_close(step.log_prob, log_prob.mean(1))
    torch.testing.assert_close(step.std, torch.full((2,), std, dtype=double))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sample_handed_back_has_the_log_probability_it_was_drawn_with(dtype: torch.dtype) -> None:
    x, v, _ = operands((3, 5003), dtype)
    sigma = torch.tensor([0.9, 0.5, 0.2])
    first = ops.sde_step(x, v, sigma, sigma / 2, seed=1)
    again = ops.sde_step(x, v, sigma, sigma / 2, next_sample=first.sample)
    assert again.sample is first.sample
    assert same_bits(again.log_prob, first.log_prob) and same_bits(again.mean, first.mean)
    assert float((again.log_prob - first.log_prob).exp().sub(1).abs().max()) == 0.0


def test_float32_sample_with_bfloat16_velocity() -> None:
    x, v, z = operands((2, 100), torch.float32)
    step = ops.sde_step(x, v.bfloat16(), 0.8, 0.6, noise=z.bfloat16())
    wide = ops.sde_step(x, v.bfloat16().float(), 0.8, 0.6, noise=z.bfloat16().float())
    assert all(same_bits(a, b) for a, b in zip(step, wide, strict=True))
    assert step.sample.dtype == step.log_prob.dtype == torch.float32


def test_gradients() -> None:
    x, v = (t.requires_grad_() for t in operands((2, 7), double)[:2])
    noise, reached, _ = operands((2, 7), double, seed=3)
    sigma = torch.tensor([0.9, 0.4], dtype=double)
    check = torch.autograd.gradcheck
    assert check(lambda x, v: ops.sde_step(x, v, sigma, sigma / 2, noise=noise)[:2], (x, v))
    assert check(lambda x, v: ops.sde_step(x, v, sigma, sigma / 2, next_sample=reached)[1:3], (x, v))


def test_score_of_a_drawn_sample_is_that_of_a_given_one() -> None:
    x, v, _ = operands((2, 70), torch.float32)
    v.requires_grad_()
    first = ops.sde_step(x, v, 0.9, 0.7, seed=5)
    assert not first.std.requires_grad
    drawn_score = torch.autograd.grad(first.log_prob.sum(), v)[0]
    again = ops.sde_step(x, v, 0.9, 0.7, next_sample=first.sample.detach())
    assert same_bits(torch.autograd.grad(again.log_prob.sum(), v)[0], drawn_score)
    plain = ops.reference.sde_step(x, v, 0.9, 0.7, next_sample=first.sample.detach())
    torch.testing.assert_close(torch.autograd.grad(plain.log_prob.sum(), v)[0], drawn_score)


# -- the objective -------------------------------------------------------------------------------------------


def test_transition_kl() -> None:
    mean, teacher, _ = operands((3, 4, 5), double)
    std = torch.tensor([0.5, 1.0, 2.0], dtype=double)
    expected = ((mean - teacher) ** 2).mean((1, 2)) / (2 * std**2)
    torch.testing.assert_close(ops.transition_kl(mean, teacher, std), expected)
    torch.testing.assert_close(ops.reference.transition_kl(mean, teacher, std), expected)
    mean.requires_grad_()
    assert torch.autograd.gradcheck(lambda m: ops.transition_kl(m, teacher, std), (mean,))
    assert torch.autograd.gradcheck(lambda m: ops.transition_kl(m, teacher, 0.5), (mean,))


def test_flow_opd_update_favours_what_the_teacher_favours() -> None:
    """The pieces together: draw, score against a teacher, and one step of the student's velocity."""
    x, student, teacher = operands((64, 16), torch.float32)
    student.requires_grad_()
    with torch.no_grad():
        step = ops.sde_step(x, student, 0.9, 0.8, seed=1)
        target = ops.sde_step(x, teacher, 0.9, 0.8, seed=1)
        kl = ops.transition_kl(step.mean, target.mean, step.std)
    log_prob = ops.sde_step(x, student, 0.9, 0.8, next_sample=step.sample).log_prob
    ops.policy_loss(log_prob, step.log_prob, -kl).backward()
    assert (
        student.grad is not None
        and bool(student.grad.isfinite().all())
        and float(student.grad.abs().max()) > 0
    )
