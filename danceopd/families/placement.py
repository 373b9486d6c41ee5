"""Where a teacher with weights of its own waits, and in how many bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from danceopd.flow import VelocityField


@dataclass(frozen=True)
class OffloadedField:
    """A field whose model is on the device for the length of a call, and on the CPU between calls.

    Args:
        field: the model's field.
        model: frozen; moved as a whole.
        device: where it computes.
    """

    field: VelocityField
    model: nn.Module
    device: torch.device

    def __call__(self, sample: Tensor, sigma: Tensor, condition: Any) -> Tensor:
        """Velocity [B, ...]; see `danceopd.flow.VelocityField`."""
        nn.Module.to(self.model, self.device)
        try:
            return self.field(sample, sigma, condition)
        finally:
            nn.Module.to(self.model, "cpu")


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
