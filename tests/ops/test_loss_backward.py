"""The backward pass of the losses: whose memory the gradient is, what scales it, who may ask for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from danceopd import ops
from tests.ops.cases import DTYPES, operands, same_bits

Tensor = torch.Tensor
OPTIONS: list[dict[str, Any]] = [
    {},
    {"weight": 0.5},
    {"weight": torch.tensor([0.5, 2.0, 0.0])},
    {"uncond": True, "guidance_scale": 3.0},
    {
        "uncond": True,
        "guidance_scale": torch.tensor([1.0, 4.5, 0.0]),
        "weight": torch.tensor([1.0, 2.0, 3.0]),
    },
    {"mask": torch.tensor([True, False, True])[:, None]},
]


def setting(
    dtype: torch.dtype = torch.float32, shape: tuple[int, ...] = (3, 5000), **options: Any
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """A student that is a leaf, a teacher, and the loss's other arguments."""
    student, teacher, uncond = operands(shape, dtype)
    if options.get("uncond"):
        options["uncond"] = uncond
    return student.requires_grad_(), teacher, options


def gradient_of(loss: Tensor, student: Tensor, **how: Any) -> Tensor:
    return torch.autograd.grad(loss, student, **how)[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", OPTIONS)
def test_gradient_is_that_of_the_one_pass(dtype: torch.dtype, options: dict[str, Any]) -> None:
    student, teacher, rest = setting(dtype, **options)
    each, expected = ops.velocity_mse_with_grad(student, teacher, **rest)
    loss = ops.velocity_mse(student, teacher, **rest)
    assert loss.shape == () and same_bits(loss.detach(), each.double().mean().to(each.dtype))
    with torch.no_grad():
        assert same_bits(ops.velocity_mse(student, teacher, **rest), loss.detach())
    torch.testing.assert_close(gradient_of(loss, student), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("factor", [1024.0, 0.3])
def test_incoming_gradient_scales_before_the_rounding(dtype: torch.dtype, factor: float) -> None:
    student, teacher, _ = setting(dtype)
    expected = ops.velocity_mse_with_grad(student, teacher, grad_scale=factor)[1]
    got = gradient_of(ops.velocity_mse(student, teacher) * factor, student)
    exact = 2 * factor * (student.detach().double() - teacher.double()) / student.numel()
    assert (got.double() - exact).abs().max() <= 2 * (expected.double() - exact).abs().max()
    if dtype == torch.float16:  # most of the unscaled gradient is below float16's normal numbers
        torch.testing.assert_close(got, expected, rtol=2**-10, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("factor", [1.0, 0.3])
def test_retained_graph_gives_the_same_again(dtype: torch.dtype, factor: float) -> None:
    """Whatever became of the first gradient."""
    student, teacher, _ = setting(dtype)
    loss = ops.velocity_mse(student, teacher) * factor
    first = gradient_of(loss, student, retain_graph=True)
    kept = first.clone()
    first.zero_()
    again = gradient_of(loss, student, retain_graph=True)
    torch.testing.assert_close(again, kept)
    again.zero_()
    torch.testing.assert_close(gradient_of(loss, student), kept)
    with pytest.raises(RuntimeError, match="second time"):
        gradient_of(loss, student)


def test_gradients_accumulate() -> None:
    student, teacher, _ = setting()
    once = ops.velocity_mse_with_grad(student, teacher)[1]
    loss = ops.velocity_mse(student, teacher)
    loss.backward(retain_graph=True)
    assert student.grad is not None and same_bits(student.grad, once)
    loss.backward()
    ops.velocity_mse(student, teacher).backward()
    torch.testing.assert_close(student.grad, 3 * once)


def test_two_losses_of_one_student() -> None:
    student, teacher, _ = setting()
    other = teacher + 1
    velocity = student * 1.0
    (ops.velocity_mse(velocity, teacher) + ops.velocity_mse(velocity, other)).backward()
    expected = sum(ops.velocity_mse_with_grad(student, t)[1] for t in (teacher, other))
    torch.testing.assert_close(student.grad, expected)


def test_no_gradient_where_none_is_wanted() -> None:
    student, teacher, _ = setting()
    with torch.no_grad():
        assert not ops.velocity_mse(student, teacher).requires_grad
        assert not ops.velocity_mse(student, teacher.clone().requires_grad_()).requires_grad
    assert not ops.velocity_mse(student.detach(), teacher).requires_grad


@pytest.mark.parametrize("name", ["teacher", "uncond", "weight", "guidance_scale"])
def test_constants_that_require_grad_are_refused(name: str) -> None:
    student, teacher, _ = setting()
    arguments = {
        "teacher": teacher,
        "uncond": teacher.clone(),
        "weight": torch.ones(3),
        "guidance_scale": torch.ones(3),
    }
    arguments[name] = arguments[name].clone().requires_grad_()
    with pytest.raises(ValueError, match=f"^{name} requires grad"):
        ops.velocity_mse(student, **arguments)


def test_student_that_is_overwritten_is_not_read_again() -> None:
    student, teacher, _ = setting(torch.bfloat16)
    loss = ops.velocity_mse(student, teacher) * 0.3
    with torch.no_grad():
        student.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_and_scaled_loss(dtype: torch.dtype) -> None:
    student, teacher, _ = setting(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = ops.velocity_mse(student, teacher)
    assert loss.dtype == torch.float32
    (loss / 4).backward()
    assert student.grad is not None
    torch.testing.assert_close(student.grad, ops.velocity_mse_with_grad(student, teacher, grad_scale=0.25)[1])


def test_batched_incoming_gradients() -> None:
    student, teacher, _ = setting(shape=(3, 7))
    once = ops.velocity_mse_with_grad(student, teacher)[1]
    loss = ops.velocity_mse(student, teacher)
    many = gradient_of(loss, student, grad_outputs=torch.tensor([1.0, -2.0]), is_grads_batched=True)
    torch.testing.assert_close(many, torch.stack([once, -2 * once]))


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_differentiable_once(factor: float) -> None:
    student, teacher, _ = setting(torch.float64, shape=(3, 5))
    assert torch.autograd.gradcheck(lambda s: ops.velocity_mse(s, teacher) * factor, (student,))
    loss = ops.velocity_mse(student, teacher) * factor
    gradient = gradient_of(loss, student, create_graph=True)
    torch.testing.assert_close(gradient, ops.velocity_mse_with_grad(student, teacher, grad_scale=factor)[1])
    with pytest.raises(RuntimeError, match="differentiable once"):
        gradient.sum().backward()


def test_compiled_and_eager_agree() -> None:
    student, teacher, _ = setting(shape=(2, 5000))
    torch._dynamo.reset()
    compiled = torch.compile(ops.velocity_mse, fullgraph=True, backend="aot_eager")
    pairs = [(f(student, teacher), student) for f in (compiled, ops.velocity_mse)]
    losses = [loss.detach() for loss, _ in pairs]
    assert same_bits(*losses) and same_bits(*(gradient_of(*pair) for pair in pairs))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("std", [0.5, torch.tensor([0.5, 1.0, 2.0])])
def test_transition_kl(dtype: torch.dtype, std: float | Tensor) -> None:
    mean, teacher_mean, _ = setting(dtype)
    incoming = torch.tensor([1.0, -2.0, 0.5])
    results = []
    for module in (ops, ops.reference):
        kl = module.transition_kl(mean, teacher_mean, std)
        weighted = kl * incoming.to(kl.dtype)
        gradients = [gradient_of(weighted.sum(), mean, retain_graph=keep) for keep in (True, False)]
        assert same_bits(*gradients)
        results.append((kl.detach(), gradients[0]))
    for native, plain in zip(*results, strict=True):
        torch.testing.assert_close(native, plain)
    with torch.no_grad():
        assert same_bits(ops.transition_kl(mean, teacher_mean, std), results[0][0])
