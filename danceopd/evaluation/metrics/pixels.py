"""How far an edited image is from its source, pixel by pixel: everywhere, or outside the edited region."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final, Literal

import numpy as np
from typing_extensions import override

from danceopd.evaluation.base import Case, Metric, MetricInfo
from danceopd.evaluation.extra import needed_for
from danceopd.evaluation.metrics.images import (
    Pixels,
    Region,
    is_white,
    read_outside,
    read_pixels,
    read_source,
)
from danceopd.evaluation.metrics.lpips import Lpips

HIGHEST_PSNR: Final = 100.0
"""dB; stands for equal pixels too, whose ratio has no bound."""

_WINDOW: Final = 11  # pixels, of SSIM with a Gaussian of 1.5
_TITLES: Final = {"all": "to the source", "outside": "outside the edited region"}


class PixelDistance(Metric):
    """L1, PSNR, SSIM, and LPIPS where there are weights for it.

    L1 is the mean absolute difference of channels in 0..1; PSNR is in dB, at most `HIGHEST_PSNR`; SSIM is
    that of Wang et al. (2004) with Gaussian windows of standard deviation 1.5, averaged over the region.

    Args:
        region: `outside` compares the pixels outside the benchmark's mask and applies to cases that have one
            which leaves something outside; `all` compares every pixel and applies to every edit.
        lpips: measures LPIPS too.
    """

    def __init__(self, region: Literal["all", "outside"], lpips: Lpips | None = None) -> None:
        self._region = region
        self._lpips = lpips
        self._prefix = "outside" if region == "outside" else "source"
        self._is_white = cache(is_white)

    @property
    @override
    def measures(self) -> Sequence[MetricInfo]:
        better = {"l1": False, "psnr": True, "ssim": True} | ({"lpips": False} if self._lpips else {})
        return tuple(
            MetricInfo(f"{self._prefix}_{name}", higher, f"{name.upper()} {_TITLES[self._region]}")
            for name, higher in better.items()
        )

    @override
    def applies(self, case: Case) -> bool:
        return bool(case.sources) and (
            self._region == "all" or (case.mask is not None and not self._is_white(case.mask))
        )

    @override
    def measure(self, case: Case, image: Path) -> Mapping[str, float]:
        pixels = read_pixels(image)
        source = read_source(case, pixels.shape)
        region = None
        if self._region == "outside" and case.mask is not None:
            region = read_outside(case.mask, pixels.shape)
        values = _distances(source, pixels, region)
        if self._lpips:
            values["lpips"] = self._lpips(source, pixels, region)
        return {f"{self._prefix}_{name}": value for name, value in values.items()}


def _distances(source: Pixels, pixels: Pixels, region: Region | None) -> dict[str, float]:
    with needed_for("comparing pixels"):
        from skimage.metrics import peak_signal_noise_ratio, structural_similarity
    if min(pixels.shape[:2]) < _WINDOW:
        raise ValueError(
            f"SSIM needs images of at least {_WINDOW} pixels a side but got "
            f"{pixels.shape[1]}x{pixels.shape[0]}."
        )
    where = np.ones(pixels.shape[:2], bool) if region is None else region
    before, after = source[where], pixels[where]
    psnr = HIGHEST_PSNR
    if not np.array_equal(before, after):
        psnr = min(psnr, float(peak_signal_noise_ratio(before, after, data_range=255)))
    _, similarity = structural_similarity(
        source,
        pixels,
        data_range=255,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    return {
        "l1": float(np.abs(before.astype(np.float64) - after).mean() / 255),
        "psnr": psnr,
        "ssim": float(similarity[where].mean()),
    }
