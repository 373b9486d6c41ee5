"""Every op is at least half as exact as plain torch in the same dtype, both against float64."""

from __future__ import annotations

import math
from types import ModuleType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from danceopd import ops
from tests.ops.cases import DTYPES, LOW, OPS, call, exact, operands, same_bits, sigmas

shapes = st.one_of(
    st.tuples(st.integers(1, 5), st.integers(1, 70)),
    st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 9)),
    st.sampled_from([(2, 1023), (2, 1024), (3, 1025), (2, 4096), (2, 4097), (1, 9001), (2, 3, 32, 32)]),
)


def assert_as_exact_as_plain_torch(name: str, x: list[torch.Tensor], each: bool) -> None:
    truth = exact(name, x, each)
    plain, native = call(name, ops.reference, x, each), call(name, ops, x, each)
    assert native.dtype == plain.dtype and native.shape == plain.shape
    # A float64 op is compared with another float64 computation, which is no more exact than it is itself.
    double = x[0].dtype == torch.float64
    tiny = 32 * torch.finfo(torch.float64).eps if double else torch.finfo(torch.float32).eps
    tiny *= max(1.0, float(truth.abs().max()))
    error = float((native.double() - truth).abs().max())
    allowed = 2.0 * float((plain.double() - truth).abs().max()) + tiny
    assert error <= allowed, f"{name}: {error} > {allowed}"


@pytest.mark.parametrize("name", OPS)
@given(
    shape=shapes,
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 99),
    offset=st.integers(0, 9),
    each=st.booleans(),
)
def test_against_float64(
    name: str, shape: tuple[int, ...], dtype: torch.dtype, seed: int, offset: int, each: bool
) -> None:
    assert_as_exact_as_plain_torch(name, operands(shape, dtype, seed, offset), each)


@pytest.mark.parametrize("low", LOW)
@pytest.mark.parametrize("name", [name for name in OPS if name not in ("guide", "blend", "route")])
def test_float32_sample_with_low_precision_velocities(name: str, low: torch.dtype) -> None:
    x = operands((3, 517), torch.float32)
    x = [x[0], x[1].to(low), x[2].to(low)]
    assert call(name, ops, x).dtype == torch.float32
    assert_as_exact_as_plain_torch(name, x, each=True)


DIFFERENTIABLE = [n for n in OPS if n not in ("sde_std", "velocity_mse", "mse_gradient")] + ["loss"]


def gradients(name: str, module: ModuleType, x: list[torch.Tensor], out: torch.Tensor) -> list[torch.Tensor]:
    constant = {
        "sde_step": 2,
        "sde_mean": 2,
        "sde_log_prob": 2,
        "loss": 1,
        "transition_kl": 1,
        "policy_loss": 1,
    }
    leaves = [t.detach().clone().requires_grad_(k < constant.get(name, 3)) for k, t in enumerate(x)]
    now = sigmas(x[0].shape[0])[0]
    result = (
        module.velocity_mse(leaves[0], leaves[1], weight=now)
        if name == "loss"
        else call(name, module, leaves)
    )
    weight = out if name == "loss" else out[: result.numel()].view_as(result)
    wanted = [t for t in leaves if t.requires_grad]
    return list(torch.autograd.grad(result, wanted, weight.to(result.dtype), materialize_grads=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_against_float64(name: str, dtype: torch.dtype) -> None:
    x = operands((3, 517), dtype)
    out = operands((3 * 517,), dtype, seed=1)[0]
    if name == "loss":
        out = out[0]
    truths = gradients(name, ops.reference, [t.double() for t in x], out.double())
    plain, native = (gradients(name, module, x, out) for module in (ops.reference, ops))
    assert len(native) == len(plain) == len(truths) > 0
    double = dtype == torch.float64
    for own, other, truth in zip(native, plain, truths, strict=True):
        assert own.dtype == other.dtype == dtype
        tiny = 32 * torch.finfo(torch.float64).eps if double else torch.finfo(torch.float32).eps
        tiny *= max(1.0, float(truth.abs().max()))
        error = float((own.double() - truth).norm())
        assert error <= 2.0 * float((other.double() - truth).norm()) + tiny


@pytest.mark.parametrize("low", LOW)
@pytest.mark.parametrize("sigma", [0.9, 0.3, 0.05])
def test_score_of_a_low_precision_sample(low: torch.dtype, sigma: float) -> None:
    """The distance of a drawn sample from its mean is small beside both: the mean must not be rounded."""
    x, v, _ = operands((2, 2048), low)
    reached = ops.sde_step(x, v, sigma, 0.9 * sigma, seed=1).sample

    def score(module: ModuleType, dtype: torch.dtype) -> torch.Tensor:
        leaf = x.to(dtype).requires_grad_()
        step = module.sde_step(leaf, v.to(dtype), sigma, 0.9 * sigma, next_sample=reached.to(dtype))
        return torch.autograd.grad(step.log_prob.sum(), leaf)[0].double()

    truth = score(ops.reference, torch.float64)
    assert (score(ops, low) - truth).norm() <= 2.0 * (score(ops.reference, low) - truth).norm()


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("name", OPS)
@given(
    values=st.lists(
        st.sampled_from([0.0, -0.0, 1.0, -1.5, 65504.0, 1e30, math.inf, -math.inf, math.nan, 1e-40, 3e-6]),
        min_size=6,
        max_size=60,
    ),
    dtype=st.sampled_from(DTYPES),
)
def test_special_values_go_the_way_of_plain_torch(
    name: str, each: bool, values: list[float], dtype: torch.dtype
) -> None:
    n = len(values) // 6
    x = [torch.tensor(values[2 * n * k : 2 * n * (k + 1)]).to(dtype).view(2, n) for k in range(3)]
    native, plain = call(name, ops, x, each), call(name, ops.reference, x, each)
    both = native.isfinite() & plain.isfinite()
    # Fusing rounds once where torch rounds twice, so a sum may overflow in one and just not in the other.
    brink = (native.double().abs() > 3e38) | (plain.double().abs() > 3e38)
    brink |= (native.double().abs() > 6e4) | (plain.double().abs() > 6e4) if dtype == torch.float16 else brink
    assert bool((both | brink | (native.isnan() == plain.isnan())).all())
    assert same_bits(native[~both & ~brink], plain[~both & ~brink])


def test_guidance_keeps_the_difference_of_nearly_equal_fields() -> None:
    uncond = torch.full((1, 64), 1.0, dtype=torch.bfloat16)
    cond = torch.full((1, 64), 1.0 + 2**-7, dtype=torch.bfloat16)
    assert torch.equal(ops.guide(uncond, cond, 8.0), torch.full((1, 64), 1.0625, dtype=torch.bfloat16))
    sample = torch.zeros(1, 64)
    stepped = ops.euler_step(sample, cond, 1.0, 0.0, uncond=uncond, guidance_scale=8.0)
    assert torch.equal(stepped, torch.full((1, 64), -1.0625))


def test_equal_sigmas_leave_the_sample() -> None:
    x = operands((3, 100), torch.float32)
    assert torch.equal(ops.euler_step(x[0], x[1], 0.5, 0.5), x[0])
    sigma = torch.tensor([0.5, 0.7, 0.2])
    done = ops.euler_step(x[0], x[1], sigma, torch.tensor([0.5, 0.3, 0.2]))
    assert torch.equal(done[[0, 2]], x[0][[0, 2]]) and not torch.equal(done[1], x[0][1])


def test_full_step_from_noise_to_clean() -> None:
    clean, noise, _ = operands((2, 50), torch.float64)
    state = ops.add_noise(clean, noise, 0.8)
    torch.testing.assert_close(ops.euler_step(state, noise - clean, 0.8, 0.0), clean)


@pytest.mark.parametrize("dtype", DTYPES)
def test_coefficients_of_any_dtype_and_place(dtype: torch.dtype) -> None:
    x = operands((4, 33), torch.float32)
    sigma = sigmas(4)[0].to(dtype)
    expected = torch.stack(
        [ops.add_noise(x[0][b : b + 1], x[1][b : b + 1], float(s))[0] for b, s in enumerate(sigma)]
    )
    assert same_bits(ops.add_noise(x[0], x[1], sigma), expected)
    assert same_bits(ops.add_noise(x[0], x[1], sigma[1]), ops.add_noise(x[0], x[1], float(sigma[1])))  # 0-dim
    strided = torch.stack([sigma, sigma], dim=1)[:, 0]
    assert same_bits(ops.add_noise(x[0], x[1], strided), expected)


def test_weights_of_a_blend() -> None:
    x = operands((4, 33), torch.float32)
    weights = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    by_list = ops.blend(x, weights.tolist())
    assert same_bits(by_list, ops.blend(x, weights))
    assert same_bits(by_list, ops.blend(tuple(x), weights.expand(4, 3)))
    assert same_bits(ops.blend(x[:1], [1.0]), x[0])
    many = [x[k % 3] for k in range(32)]
    torch.testing.assert_close(ops.blend(many, [1 / 32] * 32), torch.stack(many).mean(0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_route_takes_whole_samples_unread_fields_stay_unread(dtype: torch.dtype) -> None:
    x = operands((5, 2, 37), dtype)
    x[1][:] = math.nan
    index = torch.tensor([0, 2, 2, 0, 2])
    routed = ops.route(x, index)
    assert torch.equal(routed, torch.stack([x[k][b] for b, k in enumerate(index.tolist())]))
    assert torch.equal(routed, ops.route(x, index.int()))


def test_inputs_that_are_not_contiguous() -> None:
    for name in OPS:
        whole = operands((3, 8, 10), torch.float32)
        strided = [t.transpose(1, 2) for t in whole]
        result = call(name, ops, strided)
        assert result.is_contiguous()
        assert same_bits(result, call(name, ops, [t.contiguous() for t in strided]))
