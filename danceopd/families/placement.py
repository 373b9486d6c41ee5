"""Where a teacher with weights of its own waits, and in how many bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from danceopd.flow import VelocityField

_PIECE: Final = 2**30  # bytes of pinned memory that are asked for at once
_ALIGNMENT: Final = 256  # of a tensor in it, as of those that torch allocates


@dataclass(frozen=True)
class OffloadedField:
    """A field whose model has copies of its weights on the device for the length of a call.

    The weights stay where they are, on the CPU: they are frozen, so there is nothing to bring back.

    Args:
        field: the model's field.
        model: frozen.
        device: where it computes.
    """

    field: VelocityField
    model: nn.Module
    device: torch.device

    def __call__(self, sample: Tensor, sigma: Tensor, condition: Any) -> Tensor:
        """Velocity [B, ...]; see `danceopd.flow.VelocityField`."""
        with _copied_to(self.model, self.device):
            return self.field(sample, sigma, condition)


@contextmanager
def _copied_to(model: nn.Module, device: torch.device) -> Iterator[None]:
    # Looked up at each call: another teacher may have put its LoRA on the model.
    waiting = [
        (part, name, value)
        for part in model.modules()
        for name, value in (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False))
    ]
    try:
        for part, name, value in waiting:
            copy = value.to(device, non_blocking=True)
            parameter = isinstance(value, nn.Parameter)
            setattr(part, name, nn.Parameter(copy, requires_grad=False) if parameter else copy)
        yield
    finally:
        for part, name, value in waiting:
            setattr(part, name, value)


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The modules that diffusers' model names as not to be split, in the order in which it defines them.

    Raises:
        ValueError: it names none.
    """
    names: Sequence[str] = getattr(model, "_no_split_modules", None) or ()
    blocks = [module for module in model.modules() if type(module).__name__ in names]
    if not blocks:
        raise ValueError(
            f"{type(model).__name__} has no blocks to spread over processes: set sharding to 'none'."
        )
    return blocks


def hold_pinned(model: nn.Module) -> None:
    """Move weights into memory from which a GPU reads several times as fast; needs one.

    Quantised weights stay where they are: they are several tensors in one.
    """
    weights: list[Any] = list(model.parameters())
    plain = [value for value in weights if not is_traceable_wrapper_subclass(value)]
    for group in _in_pieces(plain, _PIECE):
        pack(group, torch.empty(sum(map(_padded, group)), dtype=torch.uint8, pin_memory=True))


def pack(tensors: Sequence[Tensor], memory: Tensor) -> None:
    """Let tensors lie one after the other in `memory` (uint8, as long as they are when padded)."""
    start = 0
    for tensor in tensors:
        place = memory[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        tensor.data = place.copy_(tensor.data)
        start += _padded(tensor)


def _in_pieces(tensors: Sequence[Tensor], size: int) -> Iterator[list[Tensor]]:
    """Groups of `size` bytes at most, or of one larger tensor.

    Pinned memory is handed out in powers of two, so that tensors that ask for their own can cost twice their
    size.
    """
    group: list[Tensor] = []
    for tensor in tensors:
        if group and sum(map(_padded, group)) + _padded(tensor) > size:
            yield group
            group = []
        group.append(tensor)
    if group:
        yield group


def _padded(tensor: Tensor) -> int:
    return -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT


def hold_in_int8(model: nn.Module) -> None:
    """Round the weights of all linear layers to 8 bits with a scale per output, through torchao.

    Raises:
        ImportError: torchao is not installed.
    """
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise ImportError(
            "quantization='int8' needs the package torchao: pip install torchao.", name="torchao"
        ) from error
    quantize_(model, Int8WeightOnlyConfig())
