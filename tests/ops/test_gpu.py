"""CUDA against the CPU kernels, which are the specification: bit for bit, reductions included."""

from __future__ import annotations

import math

import pytest
import torch

from danceopd import ops
from tests.ops.cases import ALL, LOW, call, operands, same_bits

pytestmark = pytest.mark.gpu
DTYPES = (torch.float32, *LOW)


def to_gpu(x: list[torch.Tensor], offset: int = 0) -> list[torch.Tensor]:
    moved = []
    for t in x:
        storage = torch.empty(t.numel() + offset, dtype=t.dtype, device="cuda")
        moved.append(storage[offset:].view_as(t).copy_(t))
    return moved


@pytest.fixture(autouse=True)
def kernels_must_run() -> None:
    assert ops.build_info().cuda_devices, f"no native CUDA: {ops.build_info().cuda_problem}"


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "offset"), [((2, 5), 0), ((3, 1237), 0), ((3, 1237), 3), ((2, 3, 64, 65), 0)]
)
def test_same_bits_as_the_cpu(shape: tuple[int, ...], offset: int, dtype: torch.dtype, each: bool) -> None:
    x = operands(shape, dtype)
    x[0].view(-1)[:4] = torch.tensor([math.inf, math.nan, 1e-39, -0.0]).to(dtype)
    for name in ALL:
        assert same_bits(call(name, ops, to_gpu(x, offset), each), call(name, ops, x, each)), name


@pytest.mark.parametrize("low", LOW)
def test_mixed_dtypes(low: torch.dtype) -> None:
    x = operands((3, 4099), torch.float32)
    x = [x[0], x[1].to(low), x[2].to(low)]
    for name in (name for name in ALL if name not in ("guide", "blend", "route")):
        assert same_bits(call(name, ops, to_gpu(x)), call(name, ops, x)), name


@pytest.mark.parametrize("mask_shape", [(2, 1, 1, 1), (1, 1, 33, 5), (7, 1, 1), (2, 7, 33, 5), (2, 7, 1, 5)])
def test_masks(mask_shape: tuple[int, ...]) -> None:
    student, teacher, _ = operands((2, 7, 33, 5), torch.float32)
    mask = torch.rand(mask_shape) > 0.5
    for kind in (torch.bool, torch.float32, torch.bfloat16):
        m = mask.to(kind)
        on_cpu = ops.velocity_mse_with_grad(student, teacher, mask=m)
        on_gpu = ops.velocity_mse_with_grad(student.cuda(), teacher.cuda(), mask=m.cuda())
        assert all(same_bits(a, b) for a, b in zip(on_gpu, on_cpu, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_of_the_policy_loss(dtype: torch.dtype) -> None:
    for shape, offset in (((5,), 0), ((3, 1237), 3), ((2, 70_001), 0)):
        x = operands(shape, dtype)
        gradients = []
        for some in (x, to_gpu(x, offset)):
            leaf = some[0].requires_grad_()
            loss = ops.policy_loss(leaf, *some[1:], clip_range=0.2) * 0.25
            first = torch.autograd.grad(loss, leaf, retain_graph=True)[0]
            again = torch.autograd.grad(loss, leaf)[0]
            if some is not x:
                assert same_bits(again, first)
            gradients.append(again)
        assert same_bits(*gradients)


def test_index_out_of_range_is_nan() -> None:
    x = to_gpu(operands((3, 101), torch.bfloat16))
    routed = ops.route(x, torch.tensor([0, 7, -1], device="cuda"))
    assert torch.equal(routed[0], x[0][0]) and routed[1:].isnan().all()


def test_float64_goes_to_plain_torch() -> None:
    x = operands((2, 9), torch.float64)
    torch.testing.assert_close(call("guide", ops, to_gpu(x)).cpu(), call("guide", ops, x))


def test_current_stream_and_graph_capture() -> None:
    x = to_gpu(operands((3, 4099), torch.float32))
    expected = {name: call(name, ops, x) for name in ALL if name != "route"}
    sigma, then = torch.tensor([0.9, 0.5, 0.2], device="cuda"), torch.tensor([0.4, 0.5, 0.1], device="cuda")
    stepped = ops.euler_step(x[0], x[1], sigma, then)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        assert same_bits(call("guide", ops, x), expected["guide"])
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = ops.euler_step(x[0], x[1], sigma, then)
            loss, gradient = ops.velocity_mse_with_grad(x[0], x[1])
            scalars = [ops.velocity_mse(x[0], x[1]), ops.policy_loss(*x)]
            steps = [
                ops.heun_step(*x, sigma, then),
                ops.ab2_step(*x, 0.95, sigma, then),
                ops.dpmpp_2m_step(*x, 0.95, sigma, then)[0],
                ops.sde_step(x[0], x[1], sigma, then, seed=7).log_prob,
            ]
        graph.replay()
    torch.cuda.synchronize()
    assert same_bits(captured, stepped)
    assert same_bits(scalars[0], ops.velocity_mse(x[0], x[1])) and same_bits(scalars[1], ops.policy_loss(*x))
    assert same_bits(steps[0], ops.heun_step(*x, sigma, then))
    assert same_bits(steps[1], ops.ab2_step(*x, 0.95, sigma, then))
    assert same_bits(steps[2], ops.dpmpp_2m_step(*x, 0.95, sigma, then)[0])
    assert same_bits(steps[3], ops.sde_step(x[0], x[1], sigma, then, seed=7).log_prob)
    assert same_bits(gradient, ops.velocity_mse_with_grad(x[0], x[1])[1]) and loss.isfinite().all()


def test_no_synchronisation() -> None:
    x = to_gpu(operands((3, 4099), torch.float32))
    sigma, then = torch.tensor([0.9, 0.5, 0.2], device="cuda"), torch.tensor([0.4, 0.5, 0.1], device="cuda")
    index = torch.tensor([0, 2, 1], device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        ops.euler_step(x[0], x[1], sigma, then)
        ops.heun_step(*x, sigma, then)
        ops.ab2_step(*x, sigma, sigma, then, uncond=x[0], guidance_scale=sigma)
        ops.dpmpp_2m_step(*x, sigma, sigma, then)
        ops.sde_step(x[0], x[1], sigma, then, seed=index)
        ops.sde_step(x[0], x[1], sigma, then, next_sample=x[2])
        ops.blend(x, sigma)
        ops.route(x, index)
        ops.velocity_mse(x[0], x[1], weight=sigma)
        leaf = x[0].detach().requires_grad_()
        ops.policy_loss(leaf, x[1], x[2]).backward()
        ops.velocity_mse(leaf, x[1]).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_device_guard() -> None:
    x = [t.to("cuda:1") for t in operands((2, 99), torch.float32)]
    with torch.cuda.device(0):
        assert same_bits(call("guide", ops, x), call("guide", ops, operands((2, 99), torch.float32)))
        assert torch.cuda.current_device() == 0
