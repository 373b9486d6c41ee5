"""Numbers that this machine measures, by well-kept libraries and weights that the user points at."""

from __future__ import annotations

from pathlib import Path

from danceopd.evaluation.base import Metric
from danceopd.evaluation.metrics.clip import (
    CAPTION_AFTER,
    CAPTION_BEFORE,
    ClipDirection,
    ClipFeatures,
    ClipImage,
    ClipText,
)
from danceopd.evaluation.metrics.dino import DinoFeatures, DinoImage
from danceopd.evaluation.metrics.diversity import DIVERSITY, measure_diversity
from danceopd.evaluation.metrics.features import Features
from danceopd.evaluation.metrics.geneval import (
    COLOURS,
    ClipColours,
    ColourNamer,
    Detector,
    Found,
    GenEvalChecks,
)
from danceopd.evaluation.metrics.lpips import Lpips
from danceopd.evaluation.metrics.pixels import PixelDistance
from danceopd.evaluation.metrics.quality import Sharpness

__all__ = [
    "CAPTION_AFTER",
    "CAPTION_BEFORE",
    "COLOURS",
    "DIVERSITY",
    "ClipColours",
    "ClipDirection",
    "ClipFeatures",
    "ClipImage",
    "ClipText",
    "ColourNamer",
    "Detector",
    "DinoFeatures",
    "DinoImage",
    "Features",
    "Found",
    "GenEvalChecks",
    "Lpips",
    "PixelDistance",
    "Sharpness",
    "local_metrics",
    "measure_diversity",
]


def local_metrics(
    *,
    clip: ClipFeatures | None = None,
    dino: Features | None = None,
    lpips: Path | None = None,
    detector: Detector | None = None,
    device: str = "cpu",
) -> list[Metric]:
    """All metrics that can be measured with what is there; each says to which cases it applies.

    Args:
        clip: for image-text, image-image and direction, and for colours in GenEval's checks.
        dino: for the similarity to the source.
        lpips: folder with the weights of LPIPS.
        detector: for GenEval's checks.
        device: where LPIPS runs.

    Raises:
        ValueError: weights are missing or wrong; a detector comes without CLIP, which names colours.
    """
    distance = Lpips(lpips, device) if lpips else None
    metrics: list[Metric] = [PixelDistance("outside", distance), PixelDistance("all", distance), Sharpness()]
    if clip:
        metrics += [ClipText(clip), ClipImage(clip), ClipDirection(clip)]
    if dino:
        metrics.append(DinoImage(dino))
    if detector:
        if clip is None:
            raise ValueError("GenEval's checks name colours by CLIP: give clip along with detector.")
        metrics.append(GenEvalChecks(detector, ClipColours(clip)))
    return metrics
