"""`out`: where an elementwise op writes its result when the caller has memory for it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from danceopd.ops import _checks, _private

_PLAIN = (torch.Tensor, torch.nn.Parameter)
Operands = dict[str, torch.Tensor | None]


def check(
    out: torch.Tensor | None, ref_name: str, ref: torch.Tensor, tensors: Operands, **numbers: object
) -> None:
    """`out` is as the result would be, and nothing that is still to be read gets lost by writing to it.

    Args:
        out: where the result goes; None for a fresh one, and then nothing is checked.
        ref_name: the tensor that decides shape, dtype and device.
        ref: the same.
        tensors: what the op reads element by element: each may be `out`.
        numbers: what it reads per sample, tensors or not: none may be.
    """
    if out is None:
        return
    if not isinstance(out, torch.Tensor):
        raise TypeError(f"out is {type(out).__name__}; pass a torch.Tensor, or None for a fresh result.")
    if out.layout != torch.strided:
        raise TypeError(f"out has layout {out.layout}; pass a dense tensor.")
    if out.shape != ref.shape:
        raise ValueError(
            f"out has shape {list(out.shape)} but {ref_name} has {list(ref.shape)}; pass equal shapes."
        )
    if out.dtype != ref.dtype:
        raise TypeError(f"out has dtype {out.dtype} but {ref_name} has {ref.dtype}; pass one dtype.")
    if out.device != ref.device:
        raise ValueError(f"out is on {out.device} but {ref_name} on {ref.device}; move one of them.")
    if not out.is_contiguous():
        raise ValueError(f"out has strides {list(out.stride())}; pass a contiguous tensor.")
    _checks.readable("out", out)
    several = {**tensors, **{k: v for k, v in numbers.items() if isinstance(v, torch.Tensor)}}
    _without_gradient({"out": out, **several})
    written = _memory(out)
    for name, tensor in several.items():
        if tensor is None:
            continue
        read = _memory(tensor)
        if written is None or read is None or read[1] <= written[0] or written[1] <= read[0]:
            continue
        if not (name in tensors and _same_elements(out, tensor)):
            raise ValueError(f"out overlaps {name} in memory; pass {_cure(name, tensors)}.")


def named(fields: Sequence[torch.Tensor]) -> Operands:
    """The fields of a blend, as errors call them."""
    return {f"fields[{k}]": field for k, field in enumerate(fields)}


def filled(out: torch.Tensor | None, result: torch.Tensor) -> torch.Tensor:
    """The result, copied to where it was asked for; the way of the calls that do not write there at once."""
    return result if out is None else out.copy_(result)


def _without_gradient(tensors: Operands) -> None:
    if not torch.is_grad_enabled():
        return
    for name, tensor in tensors.items():
        if tensor is not None and tensor.requires_grad:
            raise ValueError(f"{name} requires grad, which a call with out does not record; leave out away.")


def _memory(tensor: torch.Tensor) -> tuple[int, int] | None:
    """First byte and the one behind the last; None where there are no addresses to compare.

    Such calls (tracing, transforms, subclasses) compute a fresh result before they copy it.
    """
    addressed = type(tensor) in _PLAIN and tensor.device.type in ("cpu", "cuda")
    if not addressed or torch.compiler.is_compiling() or _private.transformed() or tensor.numel() == 0:
        return None
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    begin = tensor.data_ptr()
    return begin, begin + (last + 1) * tensor.element_size()


def _same_elements(out: torch.Tensor, tensor: torch.Tensor) -> bool:
    """Element i of one is element i of the other; both have one shape."""
    return tensor.data_ptr() == out.data_ptr() and tensor.dtype == out.dtype and tensor.is_contiguous()


def _cure(name: str, tensors: Operands) -> str:
    return f"{name} itself or memory of its own" if name in tensors else "memory of its own"
