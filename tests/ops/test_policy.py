"""Flow-OPD's clipped objective: its definition, its gradient, and what has to be exact."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch

from danceopd import ops
from danceopd.ops import _native
from tests.ops.cases import DTYPES, operands, same_bits

Tensor = torch.Tensor
double = torch.float64


@pytest.fixture(autouse=True)
def restore() -> Iterator[None]:
    isa, threads = ops.build_info().cpu_isa, torch.get_num_threads()
    yield
    _native.set_cpu_isa(isa)
    torch.set_num_threads(threads)


def gradient_of(loss: Tensor, leaf: Tensor, **how: bool) -> Tensor:
    return torch.autograd.grad(loss, leaf, **how)[0]


@pytest.mark.parametrize("module", [ops, ops.reference], ids=["native", "reference"])
def test_by_hand(module: object) -> None:
    ratio = torch.tensor([1.5, 0.5, 1.5, 0.5, 1.0], dtype=double)
    advantage = torch.tensor([2.0, 2.0, -9.0, -9.0, 1.0], dtype=double)
    # A gain is cut at the upper bound, a loss at the lower; what goes the wrong way counts in full.
    expected = torch.tensor([-2.0 * 1.1, -2.0 * 0.5, 5.0 * 1.5, 5.0 * 0.9, -1.0], dtype=double).mean()
    log_prob = ratio.log().requires_grad_()
    loss = module.policy_loss(log_prob, torch.zeros(5, dtype=double), advantage, clip_range=0.1)
    torch.testing.assert_close(loss, expected)
    slopes = torch.tensor([0.0, -2.0 * 0.5, 5.0 * 1.5, 0.0, -1.0], dtype=double) / 5
    torch.testing.assert_close(gradient_of(loss, log_prob), slopes)


def test_first_pass_is_the_plain_policy_gradient() -> None:
    old, advantage, _ = operands((20,), double)
    fresh = old.clone().requires_grad_()
    ops.policy_loss(fresh, old, advantage).backward()
    torch.testing.assert_close(fresh.grad, -advantage.clamp(-5, 5) / 20)


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_differentiable_once(factor: float) -> None:
    old, advantage, _ = operands((4, 5), double)
    log_prob = (old + 0.3 * torch.randn(4, 5, dtype=double)).requires_grad_()

    def loss(p: Tensor) -> Tensor:
        return ops.policy_loss(p, old, advantage, clip_range=0.1) * factor

    assert torch.autograd.gradcheck(loss, (log_prob,))
    gradient = gradient_of(loss(log_prob), log_prob, create_graph=True)
    torch.testing.assert_close(gradient, gradient_of(loss(log_prob), log_prob))
    with pytest.raises(RuntimeError, match="differentiable once"):
        gradient.sum().backward()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("factor", [1.0, 1024.0, 0.3])
def test_retained_graph_gives_the_same_again(dtype: torch.dtype, factor: float) -> None:
    log_prob, old, advantage = operands((3, 1500), dtype)
    log_prob.requires_grad_()
    loss = ops.policy_loss(log_prob, old, advantage, clip_range=0.3) * factor
    first = gradient_of(loss, log_prob, retain_graph=True)
    kept = first.clone()
    first.zero_()
    torch.testing.assert_close(gradient_of(loss, log_prob), kept)
    plain = ops.reference.policy_loss(log_prob, old, advantage, clip_range=0.3) * factor
    torch.testing.assert_close(kept, gradient_of(plain, log_prob))


@pytest.mark.parametrize("dtype", DTYPES)
def test_instruction_sets_and_thread_counts_agree_on_the_gradient(dtype: torch.dtype) -> None:
    x = operands((70_001,), dtype)
    x[0][:5] = torch.tensor([math.inf, -math.inf, math.nan, 1e4, -1e4]).to(dtype)
    results = []
    for isa in ops.build_info().cpu_isas:
        for threads in (1, 3):
            _native.set_cpu_isa(isa)
            torch.set_num_threads(threads)
            leaf = x[0].clone().requires_grad_()
            loss = ops.policy_loss(leaf[3:], x[1][3:], x[2][3:], clip_range=0.3)
            whole = ops.policy_loss(leaf, x[1], x[2])
            results.append((loss.detach(), gradient_of(loss, leaf), gradient_of(whole, leaf)))
    for other in results[1:]:
        assert all(same_bits(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, double])
def test_ratio_over_its_whole_range(dtype: torch.dtype) -> None:
    """The exponential beneath it, which is not torch's: against that, in ulps."""
    low, high = (-87.0, 88.5) if dtype == torch.float32 else (-708.0, 709.0)
    log_prob = torch.linspace(low, high, 100_001, dtype=double).to(dtype)
    zeros = torch.zeros_like(log_prob)
    for advantage, part in ((1.0, log_prob <= 0), (-1.0, log_prob >= 0)):  # what is not cut
        leaf = log_prob[part].requires_grad_()
        loss = ops.policy_loss(leaf, zeros[part], zeros[part] + advantage, clip_range=0.5)
        incoming = torch.tensor(float(leaf.numel()), dtype=dtype)  # undoes the mean
        torch.autograd.grad(loss, leaf, incoming, retain_graph=True)
        ratio = torch.autograd.grad(loss, leaf, incoming)[0].abs()
        exact = leaf.detach().double().exp()
        assert float(((ratio.double() - exact) / exact).abs().max()) <= 1.5 * torch.finfo(dtype).eps
    for extreme, expected in ((200.0, math.inf), (-200.0, 0.0), (math.nan, math.nan)):
        value = torch.tensor([extreme * 10], dtype=dtype)
        loss = ops.policy_loss(value, zeros[:1], zeros[:1] + math.copysign(1.0, -extreme))
        assert same_bits(loss.abs(), torch.tensor(expected, dtype=dtype))


def test_compiled_and_eager_agree() -> None:
    log_prob, old, advantage = operands((2, 50), torch.float32)
    log_prob.requires_grad_()
    torch._dynamo.reset()
    compiled = torch.compile(ops.policy_loss, fullgraph=True, backend="aot_eager")
    losses = [f(log_prob, old, advantage, clip_range=0.2) for f in (compiled, ops.policy_loss)]
    assert same_bits(*(loss.detach() for loss in losses))
    assert same_bits(*(gradient_of(loss, log_prob) for loss in losses))


def test_large_sums_stay_exact() -> None:
    zeros = torch.zeros(3_000_001)
    assert ops.policy_loss(zeros, zeros, zeros - 1.0).item() == 1.0
