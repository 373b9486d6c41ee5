"""Bit for bit: the same numbers from every instruction set, thread count, alignment and split of a batch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from danceopd import ops
from danceopd.ops import _native
from tests.ops.cases import ALL, DTYPES, call, operands, same_bits

ISAS = ops.build_info().cpu_isas


@pytest.fixture(autouse=True)
def restore() -> Iterator[None]:
    isa, threads = ops.build_info().cpu_isa, torch.get_num_threads()
    yield
    _native.set_cpu_isa(isa)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("isa", ISAS[1:])
@pytest.mark.parametrize("dtype", DTYPES)
def test_instruction_sets_agree(isa: str, dtype: torch.dtype) -> None:
    for shape, offset in (((3, 1237), 0), ((2, 5), 1), ((2, 3, 4099), 3)):
        x = operands(shape, dtype, offset=offset)
        x[0].view(-1)[:4] = torch.tensor([float("inf"), float("nan"), 1e-39, -0.0]).to(dtype)
        for name in ALL:
            _native.set_cpu_isa("baseline")
            expected = call(name, ops, x)
            _native.set_cpu_isa(isa)
            assert same_bits(call(name, ops, x), expected), name


@pytest.mark.parametrize("isa", ISAS)
def test_half_precision_conversions(isa: str) -> None:
    _native.set_cpu_isa(isa)
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    for dtype in (torch.float16, torch.bfloat16):
        halves = every.view(dtype).reshape(8, -1)
        wide = ops.euler_step(torch.zeros(8, halves.shape[1]), halves, 1.0, 0.0)  # 0 - half, in float32
        assert same_bits(wide, 0.0 - halves.float())
        # Every half, the midpoints between them, and the float neighbours of all these: rounding, ties,
        # overflow and subnormals.
        exact = halves.float().reshape(-1)
        around = [exact, exact.nextafter(torch.tensor(torch.inf)), exact.nextafter(torch.tensor(-torch.inf))]
        middle = (exact[:-1].double() + exact[1:].double()).mul(0.5).float()
        around += [
            middle,
            middle.nextafter(torch.tensor(torch.inf)),
            middle.nextafter(torch.tensor(-torch.inf)),
        ]
        numbers = torch.cat(around)[None]
        nothing = torch.full(numbers.shape, -0.0, dtype=dtype)  # added to a zero, it leaves that zero's sign
        rounded = ops.add_noise(nothing, numbers, 1.0)
        assert same_bits(rounded, numbers.to(dtype))


@pytest.mark.parametrize("threads", [2, 3, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_thread_counts_agree(threads: int, dtype: torch.dtype) -> None:
    x = operands((3, 70_001), dtype)
    for name in ALL:
        torch.set_num_threads(1)
        expected = call(name, ops, x)
        torch.set_num_threads(threads)
        assert same_bits(call(name, ops, x), expected), name


@pytest.mark.parametrize("name", [n for n in ALL if n not in ("mse_gradient", "policy_loss")])
def test_a_batch_is_its_samples_one_by_one(name: str) -> None:
    x = operands((3, 2, 2500), torch.float32)
    batched = call(name, ops, x, each=False)
    x = [t[:1].contiguous() if name != "route" else t for t in x]  # route's index differs by sample
    assert same_bits(call(name, ops, x, each=False)[:1], batched[:1])


def test_unaligned_storage_gives_the_same_bits() -> None:
    for dtype in DTYPES:
        aligned = operands((2, 3001), dtype)
        for offset in (1, 3, 5):
            shifted = []
            for t in aligned:
                storage = torch.empty(t.numel() + offset, dtype=dtype)
                shifted.append(storage[offset:].view_as(t).copy_(t))
            for name in ALL:
                assert same_bits(call(name, ops, aligned), call(name, ops, shifted)), (name, dtype, offset)


def test_inputs_are_not_written() -> None:
    x = operands((3, 1237), torch.bfloat16)
    before = [t.clone() for t in x]
    for name in ALL:
        call(name, ops, x)
    assert all(torch.equal(a, b) for a, b in zip(x, before, strict=True))


def test_unknown_instruction_set_is_refused() -> None:
    with pytest.raises(ValueError, match="'sse9', but this CPU and build offer only: baseline"):
        _native.set_cpu_isa("sse9")
