"""Sharpness, by which blur shows that no benchmark asks about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from typing_extensions import override

from danceopd.evaluation.base import Case, Metric, MetricInfo
from danceopd.evaluation.extra import needed_for
from danceopd.evaluation.metrics.images import read_pixels


class Sharpness(Metric):
    """Variance of the Laplacian of the luma, in 0..255.

    Neither more nor less is better: blur has little, noise has much. It depends on the size of an image, so
    it compares images of one size only.
    """

    measures: Sequence[MetricInfo] = (MetricInfo("sharpness", None, "Sharpness"),)

    @override
    def applies(self, case: Case) -> bool:
        return True

    @override
    def measure(self, case: Case, image: Path) -> Mapping[str, float]:
        with needed_for("measuring sharpness"):
            from scipy.ndimage import laplace
        luma = np.asarray(Image.fromarray(read_pixels(image)).convert("L"), np.float64)
        return {"sharpness": float(laplace(luma).var())}
