"""The tiny FLUX.2 of ShapesWorld: diffusers' own transformer, and how samples, words and sources enter it.

Images are cut into 4 x 4 patches, 16 tokens of 48 numbers. As in the real family, position ids have four axes
(reference, row, column, word), target tokens have reference id 0, a source image's tokens follow the target's
with reference id 10, and only the target's part of the output is used. Words come from the frozen encoder of
`language.embed`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from diffusers import Flux2Transformer2DModel
from torch import Tensor, nn

from danceopd.flow import upload

from .language import EMBEDDING_DIM, MAX_TOKENS, embed, tokenize
from .world import CHANNELS, IMAGE_SIZE

PATCH = 4
GRID = IMAGE_SIZE // PATCH
TOKENS = GRID * GRID
PATCH_NUMBERS = CHANNELS * PATCH * PATCH
SOURCE_REFERENCE_ID = 10

MODEL_CONFIG = {
    "patch_size": 1,
    "in_channels": PATCH_NUMBERS,
    "num_layers": 1,
    "num_single_layers": 4,
    "attention_head_dim": 32,
    "num_attention_heads": 3,
    "joint_attention_dim": EMBEDDING_DIM,
    "timestep_guidance_channels": 64,
    "mlp_ratio": 3.0,
    "axes_dims_rope": (8, 8, 8, 8),
    "guidance_embeds": False,
}


def build_model(seed: int = 0) -> nn.Module:
    """A freshly initialised transformer (0.9 M parameters); the same `seed` gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return cast(nn.Module, Flux2Transformer2DModel(**MODEL_CONFIG))


@dataclass(frozen=True)
class ShapesCondition:
    """What each sample of a batch is asked for: its words and, for edits, the image to start from.

    Attributes:
        tokens: word ids [B, 8].
        source: images [B, 3, 16, 16] in [-1, 1]; rows without a source hold zeros.
        has_source: bool [B], always on the CPU: it decides how a batch is run, which must not wait for a GPU.
    """

    tokens: Tensor
    source: Tensor
    has_source: Tensor

    @classmethod
    def from_prompts(cls, prompts: Sequence[str], sources: Sequence[Tensor | None]) -> ShapesCondition:
        """Words and optional sources ([3, 16, 16] in [-1, 1] each) of a batch.

        Raises:
            ValueError: a source has another shape, or a prompt that `language.tokenize` refuses.
        """
        shape = (CHANNELS, IMAGE_SIZE, IMAGE_SIZE)
        for source in sources:
            if source is not None and tuple(source.shape) != shape:
                raise ValueError(
                    f"source has shape {tuple(source.shape)}, but ShapesWorld edits images of {shape}."
                )
        empty = torch.zeros(shape)
        stacked = torch.stack([empty if s is None else s.to(torch.float32) for s in sources])
        return cls(tokenize(prompts), stacked, torch.tensor([s is not None for s in sources]))

    def __len__(self) -> int:
        return len(self.tokens)

    def take(self, rows: Tensor) -> ShapesCondition:
        """The condition of some rows [R], in their order."""
        there = upload(rows, self.tokens.device)
        return ShapesCondition(self.tokens[there], self.source[there], self.has_source[rows])

    def concat(self, other: ShapesCondition) -> ShapesCondition:
        """Both batches as one, `other` last."""
        return ShapesCondition(
            torch.cat([self.tokens, other.tokens]),
            torch.cat([self.source, other.source]),
            torch.cat([self.has_source, other.has_source]),
        )

    def unconditional(self) -> ShapesCondition:
        """The same rows with the empty prompt; sources stay, as in the real families' editing pipelines."""
        return ShapesCondition(torch.zeros_like(self.tokens), self.source, self.has_source)

    def to(self, device: torch.device | str) -> ShapesCondition:
        """The same rows on `device`."""
        place = torch.device(device)
        return ShapesCondition(upload(self.tokens, place), upload(self.source, place), self.has_source)


def patchify(images: Tensor) -> Tensor:
    """[B, 3, 16, 16] -> tokens [B, 16, 48], each token a patch in (channel, row, column) order."""
    patches = images.unflatten(3, (GRID, PATCH)).unflatten(2, (GRID, PATCH))
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(len(images), TOKENS, PATCH_NUMBERS)


def unpatchify(tokens: Tensor) -> Tensor:
    """The inverse of `patchify`."""
    patches = tokens.reshape(-1, GRID, GRID, CHANNELS, PATCH, PATCH)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(-1, CHANNELS, IMAGE_SIZE, IMAGE_SIZE)


def _image_ids(reference: int) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    zero = torch.zeros(TOKENS, dtype=torch.long)
    return torch.stack([zero + reference, rows.flatten(), columns.flatten(), zero], dim=1)


_TARGET_IDS = _image_ids(0)
_EDIT_IDS = torch.cat([_TARGET_IDS, _image_ids(SOURCE_REFERENCE_ID)])
_TEXT_IDS = nn.functional.pad(torch.arange(MAX_TOKENS)[:, None], (3, 0))


def predict(model: nn.Module, sample: Tensor, sigma: Tensor, condition: ShapesCondition) -> Tensor:
    """The model's velocity [B, 3, 16, 16] at `sample` [B, 3, 16, 16] and noise level `sigma` [B].

    Rows with and without a source have sequences of different length, so a mixed batch runs as two forwards.
    """
    with_source = condition.has_source
    if with_source.all() or not with_source.any():
        return _predict_alike(model, sample, sigma, condition, edit=bool(with_source.all()))
    groups = [torch.nonzero(with_source == edit).squeeze(1) for edit in (False, True)]
    parts = []
    for edit, rows in zip((False, True), groups, strict=True):
        there = upload(rows, sample.device)
        parts.append(_predict_alike(model, sample[there], sigma[there], condition.take(rows), edit=edit))
    return torch.cat(parts)[upload(torch.argsort(torch.cat(groups)), sample.device)]


def _predict_alike(
    model: nn.Module, sample: Tensor, sigma: Tensor, condition: ShapesCondition, *, edit: bool
) -> Tensor:
    dtype, device = next(model.parameters()).dtype, sample.device
    tokens = patchify(sample.to(dtype))
    if edit:
        tokens = torch.cat([tokens, patchify(condition.source.to(dtype))], dim=1)
    output = model(
        hidden_states=tokens,
        encoder_hidden_states=embed(condition.tokens).to(dtype),
        timestep=sigma.to(dtype),
        img_ids=upload(_EDIT_IDS if edit else _TARGET_IDS, device),
        txt_ids=upload(_TEXT_IDS, device),
        return_dict=False,
    )[0]
    return unpatchify(output[:, :TOKENS])
