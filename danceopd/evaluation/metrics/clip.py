"""CLIP similarities: of an image and a text, of two images, and of how both changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image
from torch import Tensor
from typing_extensions import override

from danceopd.evaluation.base import Case, Metric, MetricInfo
from danceopd.evaluation.metrics.features import Memory, load_model, open_picture, unit, version_of

CAPTION_BEFORE: Final = "input_caption"
"""Key of `Case.about`: what the source shows. The name is that of Emu Edit's test set."""
CAPTION_AFTER: Final = "output_caption"
"""Key of `Case.about`: what a right edit shows."""


class ClipFeatures:
    """A CLIP model: images and texts as vectors of one space.

    Args:
        folder: of a CLIP model with its tokenizer and image processor.
        device: where it runs.

    Raises:
        ValueError: the folder does not hold one.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        from transformers import AutoTokenizer

        self._model, self._processor = load_model(
            folder, ("clip",), "CLIP", "openai/clip-vit-large-patch14", device
        )
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise ValueError(
                f"the tokenizer in '{folder}' cannot be read ({reason}): copy all files of the model."
            ) from None
        self._device = device
        self._memory = Memory()

    def embed(self, image: Path) -> Tensor:
        """float32 [D] of length 1.

        Raises:
            ValueError: the image cannot be read.
        """
        return self._memory.get(version_of(image), lambda: self.embed_picture(open_picture(image)))

    @torch.inference_mode()
    def embed_picture(self, picture: Image.Image) -> Tensor:
        """float32 [D] of length 1, of an image in memory."""
        pixels = self._processor(images=picture, return_tensors="pt")["pixel_values"].to(self._device)
        seen = self._model.vision_model(pixel_values=pixels).pooler_output
        return unit(self._model.visual_projection(seen))[0]

    def embed_text(self, text: str) -> Tensor:
        """float32 [D] of length 1; what exceeds the model's 77 tokens is not read."""
        return self._memory.get(("text", text), lambda: self._read(text))

    @torch.inference_mode()
    def _read(self, text: str) -> Tensor:
        longest = self._model.config.text_config.max_position_embeddings
        tokens = self._tokenizer(text, truncation=True, max_length=longest, return_tensors="pt").to(
            self._device
        )
        read = self._model.text_model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).pooler_output
        return unit(self._model.text_projection(read))[0]


class ClipText(Metric):
    """Cosine of an image and what it should show: the prompt, or the caption after the edit."""

    measures: Sequence[MetricInfo] = (MetricInfo("clip_text", True, "CLIP image-text similarity"),)

    def __init__(self, clip: ClipFeatures) -> None:
        self._clip = clip

    @override
    def applies(self, case: Case) -> bool:
        return case.capability == "t2i" or CAPTION_AFTER in case.about

    @override
    def measure(self, case: Case, image: Path) -> Mapping[str, float]:
        text = case.about.get(CAPTION_AFTER, case.prompt)
        return {"clip_text": _cosine(self._clip.embed(image), self._clip.embed_text(text))}


class ClipImage(Metric):
    """Cosine of an edited image and its source."""

    measures: Sequence[MetricInfo] = (MetricInfo("clip_image", True, "CLIP similarity to the source"),)

    def __init__(self, clip: ClipFeatures) -> None:
        self._clip = clip

    @override
    def applies(self, case: Case) -> bool:
        return bool(case.sources)

    @override
    def measure(self, case: Case, image: Path) -> Mapping[str, float]:
        return {"clip_image": _cosine(self._clip.embed(image), self._clip.embed(case.sources[0]))}


class ClipDirection(Metric):
    """Cosine of how the image changed and how its caption did (arXiv 2108.00946).

    An image that did not change has no direction and gets 0, as one has that changed to no purpose.
    """

    measures: Sequence[MetricInfo] = (MetricInfo("clip_direction", True, "CLIP direction of the edit"),)

    def __init__(self, clip: ClipFeatures) -> None:
        self._clip = clip

    @override
    def applies(self, case: Case) -> bool:
        return bool(case.sources) and CAPTION_BEFORE in case.about and CAPTION_AFTER in case.about

    @override
    def measure(self, case: Case, image: Path) -> Mapping[str, float]:
        seen = self._clip.embed(image) - self._clip.embed(case.sources[0])
        before, after = (self._clip.embed_text(case.about[key]) for key in (CAPTION_BEFORE, CAPTION_AFTER))
        return {"clip_direction": _cosine(seen, after - before)}


def _cosine(first: Tensor, second: Tensor) -> float:
    return torch.nn.functional.cosine_similarity(first, second, dim=-1).item()
