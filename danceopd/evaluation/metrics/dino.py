"""DINO similarity of an edited image to its source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from typing_extensions import override

from danceopd.evaluation.base import Case, Metric, MetricInfo
from danceopd.evaluation.metrics.features import Features, Memory, load_model, open_picture, unit, version_of

# `vit` is DINO itself as transformers has it.
_KINDS: Final = ("vit", "dinov2", "dinov2_with_registers", "dinov3_vit")


class DinoFeatures:
    """The class token of a DINO, DINOv2 or DINOv3 vision transformer.

    Args:
        folder: of the model with its image processor.
        device: where it runs.

    Raises:
        ValueError: the folder does not hold one.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        self._model, self._processor = load_model(folder, _KINDS, "DINO", "facebook/dino-vits16", device)
        self._device = device
        self._memory = Memory()

    def embed(self, image: Path) -> Tensor:
        """float32 [D] of length 1.

        Raises:
            ValueError: the image cannot be read.
        """
        return self._memory.get(version_of(image), lambda: self._see(image))

    @torch.inference_mode()
    def _see(self, image: Path) -> Tensor:
        pixels = self._processor(images=open_picture(image), return_tensors="pt")["pixel_values"]
        return unit(self._model(pixel_values=pixels.to(self._device)).last_hidden_state[:, 0])[0]


class DinoImage(Metric):
    """Cosine of an edited image and its source."""

    measures: Sequence[MetricInfo] = (MetricInfo("dino_image", True, "DINO similarity to the source"),)

    def __init__(self, dino: Features) -> None:
        self._dino = dino

    @override
    def applies(self, case: Case) -> bool:
        return bool(case.sources)

    @override
    def measure(self, case: Case, image: Path) -> Mapping[str, float]:
        return {"dino_image": float(self._dino.embed(image) @ self._dino.embed(case.sources[0]))}
