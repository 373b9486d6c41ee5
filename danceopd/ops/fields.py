"""Combining K velocity fields: the soft mixture and the hard choice."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.compiler import is_dynamo_compiling

from danceopd.ops import _backend, _checks, _library, _native, _out, reference


def blend(
    fields: Sequence[torch.Tensor],
    weights: torch.Tensor | Sequence[float],
    *,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """The mixture of K fields, `sum_k weights[k] * fields[k]`.

    Args:
        fields: K velocities [B, ...] of one shape, dtype and device, 1 <= K <= 32.
        weights: K floats, a tensor [K], or [B, K] for weights per sample.
        out: where the result goes: contiguous, of its shape, dtype and device. It may be one of the
            fields itself, shares no memory with the arguments otherwise, and none of them may require grad.
            None: a fresh tensor.

    Returns:
        A contiguous tensor of the fields' dtype, summed in float32 (float64 for float64) in the order of the
        fields. Differentiable with respect to the fields and to weights given as a tensor.

    Raises:
        TypeError, ValueError: for arguments that do not fit; the message names the one.
    """
    if _backend.native and not is_dynamo_compiling():
        fast: torch.Tensor | None = _native.blend(False, fields, weights, out)
        if fast is not None:
            return fast
    checked = _checks.fields(fields)
    if not _backend.takes_native(*checked, out):
        return reference.blend(fields, weights, out=out)
    arguments = _library.fields.blend_arguments(_checks.weights(weights, checked))
    _out.check(out, "fields[0]", checked[0], _out.named(checked), weights=weights)
    result: torch.Tensor = torch.ops.danceopd.blend(checked, *arguments)
    return _out.filled(out, result)


def route(fields: Sequence[torch.Tensor], index: torch.Tensor) -> torch.Tensor:
    """The hard choice among K fields: sample b is `fields[index[b]][b]`, and only that is read.

    Args:
        fields: K velocities [B, ...] of one shape, dtype and device, 1 <= K <= 32.
        index: integers [B] in [0, K). On a CUDA device they are not looked at by the host: a sample whose
            index is out of range is filled with NaN.

    Returns:
        A contiguous tensor of the fields' dtype. Differentiable with respect to the fields.

    Raises:
        IndexError: for an index out of range, on the CPU.
        TypeError, ValueError: for arguments that do not fit; the message names the one.
    """
    if _backend.native and not is_dynamo_compiling():
        fast: torch.Tensor | None = _native.route(False, fields, index)
        if fast is not None:
            return fast
    checked = _checks.fields(fields)
    if not _backend.takes_native(*checked):
        return reference.route(fields, index)
    result: torch.Tensor = torch.ops.danceopd.route(checked, _checks.index(index, checked))
    return result
