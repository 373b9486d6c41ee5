"""`out`: the same bits in given memory, also in place; what would lose operands or gradients is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danceopd import ops
from tests.ops.cases import DTYPES, operands, same_bits

Tensor = torch.Tensor
# Each op of the tensors (x, v, u) with sigmas that are floats or [B], and the names of x, v and u in it.
Op = Callable[..., Tensor]
CALLS: dict[str, tuple[Op, tuple[str, ...]]] = {
    "guide": (lambda m, x, v, u, s, **o: m.guide(x, v, s, **o), ("uncond", "cond")),
    "euler": (lambda m, x, v, u, s, **o: m.euler_step(x, v, s, s * 0.7, **o), ("sample", "velocity")),
    "guided euler": (
        lambda m, x, v, u, s, **o: m.euler_step(x, v, s, s * 0.7, uncond=u, guidance_scale=4.5, **o),
        ("sample", "velocity", "uncond"),
    ),
    "heun": (
        lambda m, x, v, u, s, **o: m.heun_step(x, v, u, s, s * 0.7, **o),
        ("sample", "velocity", "velocity_next"),
    ),
    "ab2": (
        lambda m, x, v, u, s, **o: m.ab2_step(x, v, u, 0.99, s, s * 0.7, **o),
        ("sample", "velocity", "velocity_previous"),
    ),
    "guided ab2": (
        lambda m, x, v, u, s, **o: m.ab2_step(x, v, v, 0.99, s, s * 0.7, uncond=u, guidance_scale=4.5, **o),
        ("sample", "velocity", "uncond"),
    ),
    "add_noise": (lambda m, x, v, u, s, **o: m.add_noise(x, v, s, **o), ("clean", "noise")),
    "blend": (
        lambda m, x, v, u, s, **o: m.blend([x, v, u], [0.2, 0.3, 0.5], **o),
        ("fields[0]", "fields[1]", "fields[2]"),
    ),
    "blend of many": (
        lambda m, x, v, u, s, **o: m.blend([x, v, u, x, v, u], [0.2, 0.3, 0.5, -1.0, 2.0, 3.0], **o),
        ("fields[0]", "fields[1]", "fields[2]"),
    ),
}
MODULES = pytest.mark.parametrize("module", [ops, ops.reference], ids=["native", "reference"])
EACH_OP = pytest.mark.parametrize("name", CALLS)


@MODULES
@EACH_OP
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_same_bits_wherever_the_result_goes(module: Any, name: str, data: st.DataObject) -> None:
    call, names = CALLS[name]
    shape = data.draw(st.sampled_from([(1,), (3,), (2, 3, 5), (1, 1025), (3, 1500), (2, 16000)]))
    dtype = data.draw(st.sampled_from(DTYPES))
    x = operands(shape, dtype, data.draw(st.integers(0, 99)), data.draw(st.integers(0, 3)))
    if dtype == torch.float32 and name != "guide" and "blend" not in name and data.draw(st.booleans()):
        x[1] = x[1].bfloat16()
    sigma: Any = torch.linspace(0.9, 0.5, shape[0]) if data.draw(st.booleans()) else 0.8
    expected, before = call(module, *x, sigma), [t.clone() for t in x]

    out = torch.full_like(x[0], math.nan)
    assert call(module, *x, sigma, out=out) is out and same_bits(out, expected)
    assert all(map(same_bits, x, before))
    for k in range(len(names)):
        operand = [t.clone() for t in x]
        if operand[k].dtype != x[0].dtype:
            continue
        for target in (operand[k], operand[k].view(shape)):
            operand[k].copy_(x[k])
            assert call(module, *operand, sigma, out=target) is target
            assert same_bits(operand[k], expected)
        assert all(same_bits(operand[j], x[j]) for j in range(3) if j != k)


@MODULES
@EACH_OP
def test_every_instruction_set_writes_in_place(module: Any, name: str) -> None:
    call, _ = CALLS[name]
    chosen = ops.build_info().cpu_isa
    try:
        for isa in ops.build_info().cpu_isas:
            ops._native.set_cpu_isa(isa)
            for dtype in DTYPES:
                x = operands((2, 2077), dtype)
                expected = call(module, *x, 0.8)
                assert same_bits(call(module, *x, 0.8, out=x[1]), expected), (isa, dtype)
    finally:
        ops._native.set_cpu_isa(chosen)


@MODULES
@EACH_OP
def test_what_out_may_not_be(module: Any, name: str) -> None:
    call, names = CALLS[name]
    first, last = names[0].replace("[", r"\[").replace("]", r"\]"), len(names) - 1
    x = operands((2, 6), torch.float32)
    kept = [t.clone() for t in x]
    wrong: list[tuple[type[Exception], str, Any]] = [
        (TypeError, r"^out is list; pass a torch.Tensor, or None", [0.5]),
        (ValueError, rf"^out has shape \[2, 5\] but {first} has \[2, 6\]", torch.empty(2, 5)),
        (ValueError, r"^out has shape \[1, 2, 6\] but", torch.empty(1, 2, 6)),
        (TypeError, rf"^out has dtype torch.bfloat16 but {first} has torch.float32", x[0].bfloat16()),
        (TypeError, r"^out has dtype torch.int32 but", x[0].view(torch.int32)),
        (ValueError, rf"^out is on meta but {first} on cpu", x[0].to("meta")),
        (ValueError, r"^out has strides \[1, 2\]; pass a contiguous tensor", torch.empty(6, 2).t()),
        (ValueError, r"^out has strides \[0, 1\]; pass a contiguous", torch.empty(6).expand(2, 6)),
        (TypeError, r"^out has layout torch.sparse_coo", x[0].to_sparse()),
        (
            ValueError,
            r"^out requires grad, which a call with out does not",
            torch.ones(2, 6).requires_grad_(),
        ),
    ]
    freed = torch.empty(2, 6)
    freed.untyped_storage().resize_(0)
    wrong.append((ValueError, r"^out holds no values, its storage was freed", freed))
    for error, message, out in wrong:
        with pytest.raises(error, match=message) as caught:
            call(module, *x, 0.8, out=out)
        text = str(caught.value)
        assert text.endswith(".") and "\n" not in text and text.count(". ") == 0
    storage = torch.randn(24)
    for shift in (1, 11):  # by an element, and by all but one
        operand = [*x]
        operand[last] = storage[:12].view(2, 6)
        out, before = storage[shift : shift + 12].view(2, 6), storage.clone()
        with pytest.raises(
            ValueError, match=r"^out overlaps .* in memory; pass .* itself or memory of its own"
        ):
            call(module, *operand, 0.8, out=out)
        assert torch.equal(storage, before)
    operand[last] = storage[:12].view(2, 6)
    assert call(module, *operand, 0.8, out=storage[12:].view(2, 6)).isfinite().all()  # side by side
    turned = operands((4, 4), torch.float32)
    turned[last] = turned[last].t()
    with pytest.raises(ValueError, match=r"^out overlaps"):
        call(module, *turned, 0.8, out=turned[last].t())
    assert all(map(same_bits, x, kept))


@MODULES
@EACH_OP
def test_gradients_are_refused_and_not_lost(module: Any, name: str) -> None:
    call, names = CALLS[name]
    for k, argument in enumerate(names):
        x = operands((2, 6), torch.float32)
        x[k].requires_grad_()
        with pytest.raises(ValueError) as caught:
            call(module, *x, 0.8, out=torch.empty(2, 6))
        assert str(caught.value).startswith(f"{argument} requires grad, which")
        with torch.no_grad():
            assert same_bits(call(module, *x, 0.8, out=torch.empty(2, 6)), call(module, *x, 0.8))


@MODULES
def test_numbers_per_sample_may_not_be_overwritten(module: Any) -> None:
    line = torch.tensor([0.9, 0.5, 0.4])
    v = torch.randn(3)
    for call in (
        lambda: module.euler_step(torch.randn(3), v, line, 0.1, out=line),
        lambda: module.add_noise(torch.randn(3), v, line, out=line),
        lambda: module.guide(torch.randn(3), v, line, out=line),
        lambda: module.blend([v, v, v], line, out=line),
        lambda: module.euler_step(line, v, line, 0.1, out=line),
    ):
        with pytest.raises(ValueError, match=r"^out overlaps \w+ in memory; pass memory of its own\.$"):
            call()
    assert line.tolist() == pytest.approx([0.9, 0.5, 0.4])


@MODULES
def test_the_other_dtype_in_the_same_memory_is_no_sample(module: Any) -> None:
    out = torch.randn(2, 8)
    narrow = out.view(torch.bfloat16).view(2, 2, 8)[0]  # begins where `out` does
    with pytest.raises(ValueError, match=r"^out overlaps velocity"):
        module.euler_step(torch.randn(2, 8), narrow, 0.9, 0.5, out=out)


@MODULES
def test_a_write_counts_for_autograd(module: Any) -> None:
    """As after torch's own in-place calls: a backward pass that needs the old values says so."""
    x = torch.randn(2, 6, requires_grad=True)
    saved = x.exp()
    with torch.no_grad():
        module.guide(saved, torch.ones(2, 6), 2.0, out=saved)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        saved.sum().backward()
    with torch.inference_mode():
        inferred = torch.randn(2, 6)
        assert module.guide(inferred, inferred, 1.0, out=inferred) is inferred


@EACH_OP
def test_compiled_and_elsewhere(name: str) -> None:
    call, _ = CALLS[name]

    def twice(x: Tensor, v: Tensor, u: Tensor, out: Tensor) -> Tensor:
        call(ops, x, v, u, 0.8, out=out)
        return call(ops, out, v, u, 0.8, out=out)

    x, v, u = operands((2, 7), torch.float32)
    expected = call(ops, call(ops, x, v, u, 0.8), v, u, 0.8)
    torch._dynamo.reset()
    out = torch.empty(2, 7)
    compiled = torch.compile(twice, fullgraph=True, backend="aot_eager")
    assert same_bits(compiled(x, v, u, out), expected) and same_bits(out, expected)
    assert same_bits(compiled(x, v, u, x), expected) and same_bits(x, expected)
    meta = [t.to("meta") for t in (x, v, u)]
    assert call(ops, *meta, 0.8, out=meta[0]) is meta[0]
    with ops.use("reference"):
        assert call(ops, x, v, u, 0.8, out=v) is v


@pytest.mark.gpu
@EACH_OP
@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_in_place_on_a_gpu(name: str, dtype: torch.dtype) -> None:
    call, names = CALLS[name]
    for size in (1, 7, 4096, 70_001):
        for k in range(len(names)):
            x = [t.cuda() for t in operands((2, size), dtype)]
            expected = call(ops, *x, 0.8)
            assert call(ops, *x, 0.8, out=x[k]) is x[k] and same_bits(x[k], expected)
