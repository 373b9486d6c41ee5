"""LPIPS over AlexNet (arXiv 1801.03924, version 0.1), with weights that the user has."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from danceopd.evaluation.metrics.images import Pixels, Region

BACKBONE: Final = "alexnet-owt-7be5be79.pth"
"""What torchvision names its AlexNet."""
LINEAR: Final = "alex.pth"
"""What the LPIPS authors name the weights of its channels."""

_LAYERS: Final = ((0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1))  # number, stride, padding
_POOLED_BEFORE: Final = (3, 6)
_CHANNELS: Final = (64, 192, 384, 256, 256)
_SHIFT: Final = (-0.030, -0.088, -0.188)
_SCALE: Final = (0.458, 0.448, 0.450)
_SMALLEST: Final = 32  # pixels that leave one for the last layer
_EPSILON: Final = 1e-10


class Lpips:
    """Distance of two images as people see it, from 0 for equal ones; about 0.7 for unrelated photographs.

    Args:
        folder: holds `BACKBONE` and `LINEAR`.
        device: where it runs.

    Raises:
        ValueError: a file is missing, or holds other weights.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        backbone, linear = _load(folder / BACKBONE, device), _load(folder / LINEAR, device)
        try:
            self._convolutions = [
                (backbone[f"features.{number}.weight"].float(), backbone[f"features.{number}.bias"].float())
                for number, _, _ in _LAYERS
            ]
            self._linear = [linear[f"lin{index}.model.1.weight"].float() for index in range(len(_LAYERS))]
        except KeyError as error:
            raise ValueError(
                f"'{folder}' holds other weights than LPIPS needs ({error.args[0]} is missing): copy "
                f"{BACKBONE} and {LINEAR} anew."
            ) from None
        channels = tuple(weight.shape[1] for weight in self._linear)
        if channels != _CHANNELS:
            raise ValueError(
                f"'{folder / LINEAR}' weighs {channels} channels and AlexNet has {_CHANNELS}: take the "
                "weights for AlexNet, not those for another backbone."
            )
        self._device = device

    @torch.inference_mode()
    def __call__(self, first: Pixels, second: Pixels, region: Region | None = None) -> float:
        """Distance of two images of one size, averaged over ``region`` (everywhere without one).

        Raises:
            ValueError: a side has fewer than 32 pixels.
        """
        if min(first.shape[:2]) < _SMALLEST:
            raise ValueError(
                f"LPIPS needs images of at least {_SMALLEST} pixels a side but got "
                f"{first.shape[1]}x{first.shape[0]}."
            )
        where = None
        if region is not None:
            where = torch.from_numpy(region).to(self._device, torch.float32)[None, None]
            # The edit reaches past its region through the receptive fields, so none of it may be seen.
            second = np.where(region[..., None], second, first)
        distance = 0.0
        for one, other, linear in zip(
            self._features(first), self._features(second), self._linear, strict=True
        ):
            layer = F.conv2d((_unit(one) - _unit(other)).square(), linear)
            if where is None:
                distance += layer.mean().item()
            else:
                weight = F.interpolate(where, layer.shape[-2:], mode="area")
                distance += ((layer * weight).sum() / weight.sum()).item()
        return distance

    def _features(self, pixels: Pixels) -> list[Tensor]:
        hidden = torch.from_numpy(pixels).to(self._device).permute(2, 0, 1)[None].float() / 127.5 - 1
        shift, scale = (hidden.new_tensor(values)[None, :, None, None] for values in (_SHIFT, _SCALE))
        hidden = (hidden - shift) / scale
        features = []
        for (number, stride, padding), (weight, bias) in zip(_LAYERS, self._convolutions, strict=True):
            if number in _POOLED_BEFORE:
                hidden = F.max_pool2d(hidden, kernel_size=3, stride=2)
            hidden = F.conv2d(hidden, weight, bias, stride, padding).relu()
            features.append(hidden)
        return features


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(dim=1, keepdim=True).sqrt() + _EPSILON)


def _load(path: Path, device: str) -> dict[str, Tensor]:
    try:
        weights = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise ValueError(
            f"LPIPS needs the file '{path}', which is not there: copy it there, or leave LPIPS out."
        ) from None
    except Exception as error:  # torch's unpickler raises many kinds
        raise ValueError(
            f"'{path}' cannot be read as weights ({type(error).__name__}): copy it anew."
        ) from None
    return dict(weights)
