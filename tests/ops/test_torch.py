"""Good citizenship in torch: autograd, opcheck, compile, subclasses, modes, devices without kernels."""

from __future__ import annotations

import subprocess
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo import compiled_autograd
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from danceopd import ops
from tests.ops.cases import ALL, OPS, call, operands, same_bits

Tensor = torch.Tensor
double = torch.float64
ROOT = Path(__file__).parents[2]


def leaves(count: int, shape: tuple[int, ...] = (2, 3, 5)) -> list[Tensor]:
    return [t.requires_grad_() for t in operands(shape, double)[:count]]


def test_gradients() -> None:
    sigma, then, scale = torch.tensor([0.9, 0.4]), torch.tensor([0.5, 0.4]), torch.tensor([1.5, 3.0])
    a, b, c = leaves(3)
    check = torch.autograd.gradcheck
    assert check(lambda u, v: ops.guide(u, v, 4.5), (a, b))
    assert check(lambda u, v: ops.guide(u, v, scale), (a, b))
    assert check(lambda x, v: ops.euler_step(x, v, 0.7, 0.6), (a, b))
    assert check(lambda x, v, u: ops.euler_step(x, v, sigma, then, uncond=u, guidance_scale=scale), (a, b, c))
    assert check(lambda x, v, w: ops.heun_step(x, v, w, sigma, then), (a, b, c))
    assert check(lambda x, v, w: ops.ab2_step(x, v, w, 0.95, 0.7, 0.6), (a, b, c))
    assert check(
        lambda x, v, w: ops.ab2_step(x, v, w, 0.95, sigma, then, uncond=x, guidance_scale=scale), (a, b, c)
    )
    assert check(lambda x, v: ops.dpmpp_2m_step(x, v, None, None, 0.7, 0.6), (a, b))
    assert check(lambda x, v, w: ops.dpmpp_2m_step(x, v, w, 0.95, sigma, then), (a, b, c))
    assert check(lambda x, e: ops.add_noise(x, e, sigma), (a, b))
    assert check(lambda *f: ops.blend(list(f), [0.2, 0.3, 0.5]), (a, b, c))
    assert check(lambda *f: ops.route(list(f), torch.tensor([2, 0])), (a, b, c))


@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_gradient_of_blend_weights(shape: tuple[int, ...]) -> None:
    weights = torch.rand(shape, dtype=double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w, *f: ops.blend(list(f), w), (weights, *leaves(3)))


def test_gradient_of_the_loss() -> None:
    student, *_ = leaves(1)
    _, teacher, uncond = operands((2, 3, 5), double)
    weight, mask = torch.tensor([0.5, 2.0]), torch.tensor([True, False, True])[:, None]

    def loss(s: Tensor) -> Tensor:
        return ops.velocity_mse(s, teacher, uncond=uncond, guidance_scale=3.0, weight=weight, mask=mask)

    assert torch.autograd.gradcheck(lambda s: ops.velocity_mse(s, teacher), (student,))
    assert torch.autograd.gradcheck(loss, (student,))
    twice = torch.autograd.grad(loss(student), student, create_graph=True)[0].sum()
    with pytest.raises(RuntimeError, match="differentiable once"):
        twice.backward()


def test_gradients_have_the_dtype_of_their_input() -> None:
    sample = torch.randn(2, 9, requires_grad=True)
    velocity, uncond = (torch.randn(2, 9, dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
    ops.euler_step(sample, velocity, 0.9, 0.5, uncond=uncond, guidance_scale=2.0).sum().backward()
    for leaf in (sample, velocity, uncond):
        assert leaf.grad is not None and leaf.grad.dtype == leaf.dtype
    student = torch.randn(2, 9, dtype=torch.float16, requires_grad=True)
    (ops.velocity_mse(student, velocity.detach()) * 1024).backward()
    assert student.grad is not None and student.grad.dtype == torch.float16


def test_opcheck() -> None:
    lib = torch.ops.danceopd
    a, b, c = leaves(3)
    x, v, u = operands((2, 7), torch.float32)
    each, mask = torch.tensor([0.5, 0.4]), torch.rand(1, 3, 1, dtype=double)
    cases: list[tuple[Any, tuple[Any, ...]]] = [
        (lib.guide, (a, b, 4.5, None)),
        (lib.guide, (x, v, 0.0, each)),
        (lib.euler_step, (a, b, None, 0.9, None, 0.5, None, 1.0, None)),
        (lib.euler_step, (a, b, c, 0.9, None, 0.0, each, 0.0, each)),
        (lib.euler_step, (x, v.bfloat16(), u.half(), 0.9, None, 0.0, each, 0.0, each)),
        (lib.heun_step, (a, b, c, 0.9, None, 0.5, None)),
        (lib.ab2_step, (a, b, c, None, 0.95, None, 0.9, None, 0.0, each, 1.0, None)),
        (lib.ab2_step, (x, v.bfloat16(), u, u.half(), 0.95, None, 0.9, None, 0.5, None, 3.0, None)),
        (lib.dpmpp_2m_step, (a, b, None, 0.0, None, 0.9, None, 0.5, None)),
        (lib.dpmpp_2m_step, (a, b, c, 0.95, None, 0.9, None, 0.0, each)),
        (lib.sde_step, (a, b, None, None, 7, None, 0.9, None, 0.5, None, 0.7)),
        (lib.sde_step, (a, b, None, None, 0, torch.tensor([3, 1]), 0.9, None, 0.0, each, 0.7)),
        (lib.sde_step, (x, v.bfloat16(), None, u.half(), 0, None, 0.9, None, 0.5, None, 0.7)),
        (lib.sde_step, (a, b, c.detach(), None, 0, None, 0.9, None, 0.5, None, 0.7)),
        (lib.add_noise, (a, b, 0.3, None)),
        (lib.blend, ([a, b, c], None, [0.2, 0.3, 0.5])),
        (lib.blend, ([x, v], torch.rand(2, 2, requires_grad=True), None)),
        (lib.route, ([a, b, c], torch.tensor([2, 0]))),
        (lib.velocity_mse, (a, b.detach(), None, 1.0, None, 1.0, None, None, True)),
        (lib.velocity_mse, (a, b.detach(), c.detach(), 2.0, None, 0.0, each.double(), mask, False)),
        (lib.velocity_mse_with_grad, (x.bfloat16(), v, u, 2.0, None, 1.0, each, None, 0.25)),
        (lib.policy_loss, (a, b.detach(), c.detach(), 0.2, 5.0)),
        (lib.policy_loss_with_grad, (x.bfloat16(), v, u.half(), 0.2, 5.0, torch.tensor(0.25))),
    ]  # fmt: skip
    for op, arguments in cases:
        torch.library.opcheck(op, arguments)


def test_compiled_whole() -> None:
    index = torch.tensor([1, 0])

    def update(x: Tensor, v: Tensor, u: Tensor, sigma: float, each: Tensor) -> tuple[Tensor, ...]:
        v = ops.guide(u, v, 3.0)
        x = ops.euler_step(x, v, sigma, sigma / 2, uncond=u, guidance_scale=2.0)
        x = ops.euler_step(x, v, each, each / 2)
        x = ops.heun_step(x, v, u, sigma, sigma / 2)
        x = ops.ab2_step(x, v, u, 0.95, sigma, each * 0.1, uncond=u, guidance_scale=2.0)
        x, clean = ops.dpmpp_2m_step(x, v, u, 0.95, sigma, 0.1)
        step = ops.sde_step(x, v, each, each / 2, seed=3)
        x = ops.sde_step(clean, v, sigma, 0.1, next_sample=step.sample).mean + step.mean
        y = ops.add_noise(x, ops.route([u, v], index), sigma)
        return (
            x,
            ops.blend([x, y, u], [0.2, 0.3, 0.5]),
            ops.velocity_mse(y, v, weight=each, mask=x > 0) + (ops.policy_loss(x, y, v, clip_range=0.2)),
        )

    torch._dynamo.reset()
    compiled = torch.compile(update, fullgraph=True, backend="aot_eager", dynamic=True)
    for shape, sigma in (((2, 15), 0.9), ((2, 22), 0.7)):
        x, v, u = operands(shape, torch.float32)
        each = torch.tensor([0.8, 0.3])
        for got, expected in zip(compiled(x, v, u, sigma, each), update(x, v, u, sigma, each), strict=True):
            assert same_bits(got, expected)


def test_compiled_training_step() -> None:
    student, teacher, _ = operands((2, 15), torch.float32)
    torch._dynamo.reset()
    compiled = torch.compile(lambda s, t: ops.velocity_mse(s * 2, t), fullgraph=True, backend="aot_eager")
    grads = []
    for loss in (compiled, lambda s, t: ops.velocity_mse(s * 2, t)):
        leaf = student.clone().requires_grad_()
        loss(leaf, teacher).backward()
        grads.append(leaf.grad)
    assert same_bits(*grads)


LOSSES = {
    "mse": lambda s, v: ops.velocity_mse(s, v),
    "scaled": lambda s, v: ops.velocity_mse(s, v) * 0.3,
    "weighted": lambda s, v: ops.velocity_mse(s, v, weight=v.abs()[:, 0], uncond=-v, guidance_scale=3.0),
    "masked": lambda s, v: ops.velocity_mse(s, v, mask=v > 0),
    "kl": lambda s, v: ops.transition_kl(s, v, v.abs()[:, 0] + 0.5).sum(),
    "policy": lambda s, v: ops.policy_loss(s, v, -v, clip_range=0.3),
}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch looks at it
@pytest.mark.parametrize("name", LOSSES)
def test_compiled_autograd(name: str) -> None:
    """The backward pass captured whole, for several batches: what the first has used up is made again."""
    enable = getattr(compiled_autograd, "_enable", None) or compiled_autograd.enable
    torch._dynamo.reset()
    layer = torch.nn.Linear(9, 9)
    for seed in range(3):
        x, v, _ = operands((3, 9), torch.float32, seed)
        gradients = []
        for context in (nullcontext(), enable(torch.compile(fullgraph=True, backend="aot_eager"))):
            layer.zero_grad()
            loss = LOSSES[name](layer(x), v)
            with context:
                loss.backward()
            gradients.append([p.grad.clone() for p in layer.parameters()])
        for eager, compiled in zip(*gradients, strict=True):
            torch.testing.assert_close(compiled, eager)


@pytest.mark.slow
def test_inductor() -> None:
    """In a process of its own: the compiler's worker threads must not meet the fork tests."""
    code = (
        "import torch; from danceopd import ops\n"
        "f = torch.compile(lambda x, v: ops.euler_step(x * 2, v, 0.9, 0.5) + 1, fullgraph=True)\n"
        "x, v = torch.randn(2, 64), torch.randn(2, 64)\n"
        "assert torch.equal(f(x, v), ops.euler_step(x * 2, v, 0.9, 0.5) + 1)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class Logged(torch.Tensor):
    """A subclass that lives on torch's own calls."""


def test_subclasses_go_through_torch() -> None:
    x = [t.as_subclass(Logged) for t in operands((2, 9), torch.float32)]
    for name in OPS:
        result = call(name, ops, x)
        assert isinstance(result, Logged)
        torch.testing.assert_close(
            result.as_subclass(Tensor), call(name, ops.reference, operands((2, 9), torch.float32))
        )


def test_parameters_are_plain() -> None:
    x = torch.nn.Parameter(torch.randn(2, 9))
    with torch.no_grad():
        assert type(ops.guide(x, x, 2.0)) is torch.Tensor
    assert ops.guide(x, x, 2.0).requires_grad


def test_meta_tensors_have_shapes() -> None:
    for name in OPS:
        x = [t.to("meta") for t in operands((2, 9), torch.bfloat16)]
        expected = call(name, ops, operands((2, 9), torch.bfloat16))
        result = call(name, ops, x)
        assert (result.shape, result.dtype, result.device.type) == (expected.shape, expected.dtype, "meta")


def test_modes_see_the_ops() -> None:
    seen: list[str] = []

    class Spy(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    x = operands((2, 9), torch.float32)
    with Spy():
        ops.guide(x[0], x[1], 2.0)
    assert "danceopd.guide.default" in seen

    with torch.device("cpu"):  # a function mode that changes nothing here
        assert isinstance(torch.overrides._get_current_function_mode(), TorchFunctionMode)
        assert same_bits(
            ops.guide(x[0], x[1], 2.0), call("guide", ops, x, each=False) * 0 + ops.guide(x[0], x[1], 2.0)
        )


def test_fake_tensors() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode() as mode:
        x = [mode.from_tensor(t) for t in operands((2, 9), torch.float32)]
        assert ops.guide(x[0], x[1], 2.0).shape == (2, 9)
        assert ops.velocity_mse(x[0], x[1]).shape == ()


def test_function_transforms_differentiate() -> None:
    x, v, _ = operands((2, 9), torch.float32)
    gradient = torch.func.grad(lambda s: ops.reference.velocity_mse(s, v))(x)
    torch.testing.assert_close(gradient, ops.velocity_mse_with_grad(x, v)[1])
    with ops.use("reference"):
        torch.testing.assert_close(torch.func.grad(lambda s: ops.velocity_mse(s, v))(x), gradient)


class Level:
    """`torch.func.jvp` and `forward_ad` by the same name."""

    @staticmethod
    def func(f: Any, primals: tuple[Tensor, ...], tangents: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        return torch.func.jvp(f, primals, tangents)

    @staticmethod
    def forward_ad(
        f: Any, primals: tuple[Tensor, ...], tangents: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        import torch.autograd.forward_ad as fwd

        with fwd.dual_level():
            duals = [fwd.make_dual(p, t) for p, t in zip(primals, tangents, strict=True)]
            primal, tangent = fwd.unpack_dual(f(*duals))
            return primal.clone(), tangent.clone()


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own, on first use
@pytest.mark.parametrize("jvp", [Level.func, Level.forward_ad])
@pytest.mark.parametrize("name", [name for name in OPS if name not in ("sde_std", "velocity_mse")])
def test_tangents_are_not_dropped(jvp: Any, name: str) -> None:
    """Every op is smooth in its first tensor: the tangent is the difference quotient."""
    x = operands((2, 9), double)
    direction = torch.randn(2, 9, dtype=double)

    def op(first: Tensor) -> Tensor:
        return call(name, ops, [first, *x[1:]], each=False)

    primal, tangent = jvp(op, (x[0],), (direction,))
    step = 1e-5
    slope = (op(x[0] + step * direction) - op(x[0] - step * direction)) / (2 * step)
    torch.testing.assert_close(primal, op(x[0]))
    torch.testing.assert_close(tangent, slope, rtol=1e-6, atol=1e-8)


def test_function_transforms_of_the_ops() -> None:
    x, v, _ = operands((4, 9), torch.float32)
    gradient = torch.func.grad(lambda s: ops.velocity_mse(s, v))(x)
    torch.testing.assert_close(gradient, ops.velocity_mse_with_grad(x, v)[1])
    by_row = torch.func.vmap(lambda a, b: ops.guide(a[None], b[None], 3.0)[0])(x, v)
    torch.testing.assert_close(by_row, ops.guide(x, v, 3.0))


@pytest.mark.parametrize("name", ALL)
def test_lazily_negated_tensors(name: str) -> None:
    x = operands((2, 33), torch.float32)
    views = [torch._neg_view(t) for t in x]
    assert all(view.is_neg() and view.is_contiguous() for view in views)
    assert same_bits(call(name, ops, views), call(name, ops, [-t for t in x]))


def test_traced_functions_compute() -> None:
    x, v, _ = operands((2, 33), torch.float32)
    y = operands((2, 33), torch.float32, seed=1)[0]
    for run in (
        lambda a: ops.euler_step(a, v, 0.9, 0.5),
        lambda a: ops.guide(v, a, 3.0),
        lambda a: ops.blend([a, v], [0.5, 0.5]),
        lambda a: ops.velocity_mse(a, v),
        lambda a: ops.policy_loss(a, v, v + 1),
        lambda a: ops.sde_step(a, v, 0.9, 0.5, noise=v).log_prob,
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit's own: that it is deprecated, and what a trace fixes
            traced = torch.jit.trace(run, (x,))
        torch.testing.assert_close(traced(y), run(y))


def test_autocast_changes_nothing() -> None:
    x = operands((2, 33), torch.float32)
    low = [x[0], x[1].bfloat16(), x[2].bfloat16()]
    for name in ALL:
        some = low if name not in ("guide", "blend", "route") else x
        expected = call(name, ops, some)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert same_bits(call(name, ops, some), expected), name
    student = x[0].clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ops.velocity_mse(student, low[1]).backward()
    assert student.grad is not None
    torch.testing.assert_close(student.grad, ops.velocity_mse_with_grad(x[0], low[1])[1])


def test_older_torch_is_read_by_attributes() -> None:
    """Before 2.10 torch has no exchange table; the same calls, without it, in a process of their own."""
    code = (
        "import torch\n"
        "if hasattr(torch.Tensor, '__dlpack_c_exchange_api__'): del torch.Tensor.__dlpack_c_exchange_api__\n"
        "from danceopd import ops\n"
        "from tests.ops.cases import ALL, call, operands, same_bits\n"
        "for dtype in (torch.float32, torch.bfloat16, torch.float64):\n"
        "    x = operands((3, 5, 7), dtype)\n"
        "    for name in ALL:\n"
        "        native = call(name, ops, x)\n"
        "        strided = call(name, ops, [t.transpose(1, 2).contiguous().transpose(1, 2) for t in x])\n"
        "        assert same_bits(native, strided), name\n"
        "        plain = call(name, ops.reference, x)\n"
        "        torch.testing.assert_close(native, plain, rtol=1e-2, atol=1e-2)\n"
        "    assert same_bits(ops.guide(torch._neg_view(x[0]), x[1], 2.0), ops.guide(-x[0], x[1], 2.0))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_lazily_negated_views() -> None:
    z = torch.complex(torch.tensor([[1.0]]), torch.tensor([[2.0]])).conj()
    view = z.imag
    assert view.is_neg()
    assert ops.guide(view, view, 1.0).item() == -2.0


def test_inference_mode() -> None:
    x = operands((2, 9), torch.float32)
    with torch.inference_mode():
        result = call("euler_step", ops, x)
    assert result.is_inference() and same_bits(result.clone(), call("euler_step", ops, x))
