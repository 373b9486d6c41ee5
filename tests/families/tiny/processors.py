"""Qwen2-VL's processor without its video part, which needs torchvision and is used by no pipeline here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from transformers import Qwen2TokenizerFast, Qwen2VLImageProcessorPil, Qwen2VLProcessor

PATCH = 14
MAX_PIXELS = (4 * PATCH) ** 2
"""Of an image for the text encoder: 16 patches, 4 tokens; the real limit would cost most of a test's time."""


class QwenProcessor(Qwen2VLProcessor):
    """The real processor; transformers reads its parts from this signature, also to save and load it."""

    def __init__(
        self,
        image_processor: Qwen2VLImageProcessorPil | None = None,
        tokenizer: Qwen2TokenizerFast | None = None,
        chat_template: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template, **options)


def qwen_processor(tokenizer: Qwen2TokenizerFast) -> QwenProcessor:
    size = {"shortest_edge": (2 * PATCH) ** 2, "longest_edge": MAX_PIXELS}
    return QwenProcessor(Qwen2VLImageProcessorPil(size=size, patch_size=PATCH), tokenizer)


@contextmanager
def without_torchvision() -> Iterator[None]:
    """Let a checkpoint folder that names Qwen2-VL's processor load as the one without video."""
    with patch("transformers.Qwen2VLProcessor", QwenProcessor):
        yield
