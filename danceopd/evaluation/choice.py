"""Which metrics are measured, by short names, and by which weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from danceopd.evaluation.base import Metric
from danceopd.evaluation.benchmarks.shapesworld import Fulfilled
from danceopd.evaluation.extra import needed_for
from danceopd.evaluation.metrics import (
    DIVERSITY,
    ClipDirection,
    ClipFeatures,
    ClipImage,
    ClipText,
    DinoFeatures,
    DinoImage,
    Features,
    Lpips,
    PixelDistance,
    Sharpness,
)
from danceopd.evaluation.metrics.lpips import BACKBONE, LINEAR
from danceopd.files import sha256_of
from danceopd.settings import nearest

METRICS: Final = ("fulfilled", "clip", "dino", "pixels", "lpips", "sharpness", "diversity")
"""Names of metrics, the most telling first; each applies to the cases that it has something to say about."""

_NEED: Final = {"clip": ("clip",), "dino": ("dino",), "lpips": ("lpips",), "diversity": ("dino", "clip")}
_READ_BESIDE: Final = ("*.json", "*.txt", "*.model", "*.bpe")  # configurations and tokenizers


@dataclass
class Chosen:
    """Metrics, ready to measure.

    Attributes:
        metrics: the most telling first.
        diversity: in whose space distances between images are taken; None measures none.
        by: what measures a metric that has weights, by the name of the measure.
    """

    metrics: list[Metric] = field(default_factory=list)
    diversity: Features | None = None
    by: dict[str, str] = field(default_factory=dict)


def choose_metrics(
    names: Sequence[str] | None = None,
    *,
    clip: Path | None = None,
    dino: Path | None = None,
    lpips: Path | None = None,
    device: str = "cpu",
) -> Chosen:
    """Metrics by their names, with the weights in some folders.

    Args:
        names: of `METRICS`; all that can be measured with the folders given when None.
        clip: folder of a CLIP model; for diversity too, where there is no DINO.
        dino: folder of a DINO model.
        lpips: folder with the weights of LPIPS, which is measured with "pixels".
        device: where the models run.

    Raises:
        ValueError: a name is unknown, or its folder is not given or holds something else.
        ImportError: the extra `eval` is not installed.
    """
    folders = {"clip": clip, "dino": dino, "lpips": lpips}
    for name in names or ():
        if name not in METRICS:
            raise ValueError(f"metric '{name}' is unknown: {nearest(name, METRICS)}")
        need = _NEED.get(name, ())
        if need and not any(folders[one] for one in need):
            raise ValueError(
                f"metric '{name}' needs weights: give the folder of a model as {' or '.join(need)}, or leave "
                "it out."
            )
    asked = set(names or (name for name in METRICS if _can(name, folders)))
    chosen = Chosen()
    if asked & {"pixels", "lpips", "sharpness"}:
        with needed_for("measuring pixels"):  # now, and not when all images are drawn
            import scipy  # noqa: F401
            import skimage  # noqa: F401
    if "fulfilled" in asked:
        chosen.metrics.append(Fulfilled())
    seen: Features | None = None
    if clip and asked & {"clip", "diversity"}:
        texts = ClipFeatures(clip, device)
        seen, by = texts, _digest(_read_by_transformers(clip))
        if "clip" in asked:
            _add(chosen, [ClipDirection(texts), ClipText(texts), ClipImage(texts)], by)
    if dino and asked & {"dino", "diversity"}:
        seen, by = DinoFeatures(dino, device), _digest(_read_by_transformers(dino))
        if "dino" in asked:
            _add(chosen, [DinoImage(seen)], by)
    if asked & {"pixels", "lpips"}:
        distance = Lpips(lpips, device) if lpips and "lpips" in asked else None
        of_pixels = [PixelDistance("outside", distance), PixelDistance("all", distance)]
        chosen.metrics += of_pixels
        if lpips and distance:
            digest = _digest([lpips / LINEAR, lpips / BACKBONE])
            names_of = (info.name for metric in of_pixels for info in metric.measures)
            chosen.by |= {name: digest for name in names_of if name.endswith("_lpips")}
    if "sharpness" in asked:
        chosen.metrics.append(Sharpness())
    if "diversity" in asked and seen is not None:
        chosen.diversity = seen
        chosen.by |= dict.fromkeys((info.name for info in DIVERSITY), by)
    return chosen


def _can(name: str, folders: dict[str, Path | None]) -> bool:
    return name not in _NEED or any(folders[one] for one in _NEED[name])


def _add(chosen: Chosen, metrics: Iterable[Metric], by: str) -> None:
    for metric in metrics:
        chosen.metrics.append(metric)
        chosen.by |= {info.name: by for info in metric.measures}


def _read_by_transformers(folder: Path) -> list[Path]:
    """A model's files: its weights in one format, and what it reads images and texts by."""
    kinds = ["*.safetensors"] if any(folder.glob("model*.safetensors")) else ["*.safetensors", "*.bin"]
    return [path for kind in (*kinds, *_READ_BESIDE) for path in sorted(folder.glob(kind))]


def _digest(files: Iterable[Path]) -> str:
    """SHA-256 of files, by their names and content."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name} {sha256_of(path)}\n".encode())
    return f"sha256 {digest.hexdigest()}"
