"""Tiny random pipelines of every model family, built without a network or a file.

They have the classes, the configuration keys and the conventions of the real ones at a small fraction of the
size, and weights with which the velocity depends on prompt, time, guidance and sources.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import DiffusionPipeline, ZImageOmniPipeline

from tests.families.tiny.flux1 import flux1_dev, flux1_kontext, flux1_schnell
from tests.families.tiny.flux2 import flux2, flux2_klein
from tests.families.tiny.parts import as_bfloat16
from tests.families.tiny.processors import QwenProcessor
from tests.families.tiny.qwen_image import qwen_image, qwen_image_edit, qwen_image_edit_plus
from tests.families.tiny.sd3 import sd3
from tests.families.tiny.z_image import z_image, z_image_omni

__all__ = ["KINDS", "build", "load", "save"]

INDEX = "model_index.json"

_BUILDERS: dict[str, Callable[[], DiffusionPipeline]] = {
    "sd3": sd3,
    "flux1-dev": flux1_dev,
    "flux1-schnell": flux1_schnell,
    "flux1-kontext": flux1_kontext,
    "flux2": flux2,
    "flux2-klein": flux2_klein,
    "qwen-image": qwen_image,
    "qwen-image-edit": qwen_image_edit,
    "qwen-image-edit-plus": qwen_image_edit_plus,
    "z-image": z_image,
    "z-image-omni": z_image_omni,
}
KINDS: tuple[str, ...] = tuple(_BUILDERS)


def build(kind: str, seed: int = 0) -> DiffusionPipeline:
    """The pipeline of one of ``KINDS``: float32, evaluation mode, CPU; a function of ``seed`` alone."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        pipeline = _BUILDERS[kind]()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def save(kind: str, folder: Path | str, seed: int = 0) -> Path:
    """Write ``build(kind, seed)`` as a checkpoint folder with model_index.json and safetensors."""
    folder = Path(folder)
    build(kind, seed).save_pretrained(folder, safe_serialization=True)
    index = json.loads((folder / INDEX).read_text())
    if "processor" in index:  # the class that real checkpoints name
        index["processor"] = ["transformers", "Qwen2VLProcessor"]
        (folder / INDEX).write_text(json.dumps(index, indent=2))
    return folder


def load(folder: Path | str) -> DiffusionPipeline:
    """What ``save`` wrote, through the pipeline's own ``from_pretrained``.

    Two parts need a hand: Qwen-Image-Edit's processor loads only as the class without video, and the Omni
    autoencoder's bfloat16 is lost on the way.
    """
    folder = Path(folder)
    given = (
        {"processor": QwenProcessor.from_pretrained(folder / "processor")}
        if (folder / "processor").exists()
        else {}
    )
    pipeline = DiffusionPipeline.from_pretrained(folder, **given)
    if isinstance(pipeline, ZImageOmniPipeline):
        as_bfloat16(pipeline.vae)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
