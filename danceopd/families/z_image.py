"""Z-Image: text-to-image; and Z-Image Omni: that, and editing with one or several source images.

Time enters as 1 - sigma, the output is the negative of the velocity, samples go in and come out as lists with
a frame axis. Rows whose prompts differ in length share a forward: the model masks what pads them. Omni takes
a prompt in pieces, with places between them for the sources and for the image that is made; a source is seen
twice, as a latent at time 1 (clean) and as SigLIP features. Our guidance scale s is s - 1 in diffusers.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from danceopd.families.checkpoint import ModelCheckpoint
from danceopd.families.conditions import Encoded, PromptRow
from danceopd.families.conventions import Conventions, decode_shifted, encode_shifted
from danceopd.families.shift import dynamic_shift

_PATCH = 2
_NOISY, _CLEAN = 1, 0


class ZImage(Conventions):
    """See `Conventions`."""

    name = "Z-Image"
    pipelines = ("ZImagePipeline", "ZImageOmniPipeline")
    targets = ("attention.to_q", "attention.to_k", "attention.to_v", "attention.to_out.0")

    def __init__(self, checkpoint: ModelCheckpoint) -> None:
        super().__init__(checkpoint)
        self._is_omni = self.pipeline_name == "ZImageOmniPipeline"
        self.max_sources = 10 if self._is_omni else 0

    @property
    def multiple(self) -> int:
        """Pixels of one patch."""
        return self.vae_scale * _PATCH

    def shape(self, height: int, width: int) -> tuple[int, int, int]:
        """[16, H/8, W/8]."""
        return (
            int(self.transformer_config["in_channels"]),
            height // self.vae_scale,
            width // self.vae_scale,
        )

    def schedule(self, num_steps: int, shape: Sequence[int]) -> dict[str, Any]:
        """Even sigmas; a shift that depends on the size where the scheduler's config says so."""
        tokens = (shape[-2] // _PATCH) * (shape[-1] // _PATCH)
        # In fp32, as the pipeline has them: the model embeds a thousand times the time.
        sigmas = torch.linspace(1.0, 1.0 / num_steps, num_steps).tolist()
        return {"sigmas": sigmas, **dynamic_shift(self.scheduler_config, tokens)}

    def read_with_prompt(self, sources: Sequence[str]) -> Sequence[str | int]:
        """How many there are: Omni's template has a place for each."""
        return (len(sources),)

    def encode_prompt(self, pipe: Any, prompt: str, sources: Sequence[Tensor]) -> Encoded:
        """`piece0`, and for Omni with n > 0 sources n + 1 more: [L, D] each, without padding."""
        about_sources = {"num_condition_images": len(sources)} if self._is_omni else {}
        (pieces,), _ = pipe.encode_prompt(prompt, do_classifier_free_guidance=False, **about_sources)
        return {f"piece{i}": piece for i, piece in enumerate(pieces if self._is_omni else [pieces])}

    def encode_source(self, pipe: Any, source: Tensor) -> Encoded:
        """`latent` [16, 1, h, w] and `features` [rows, columns, D] of SigLIP."""
        if not self._is_omni:
            return super().encode_source(pipe, source)
        vae = self._autoencoder(pipe)
        there = {"batch_size": 1, "device": vae.device, "dtype": pipe.siglip.dtype}
        image = Image.fromarray(source.permute(1, 2, 0).cpu().numpy())
        # Equal pixels in another memory layout would be rounded in another way by a bfloat16 convolution.
        ((latent,),) = pipe.prepare_image_latents([pipe.image_processor.preprocess(image)], **there)
        ((features,),) = pipe.prepare_siglip_embeds([image], **there)
        return {"latent": latent, "features": features}

    def encode_target(self, pipe: Any, image: Tensor) -> Tensor:
        """From the VAE, scaled and shifted."""
        return encode_shifted(self._autoencoder(pipe), image)

    def decode(self, pipe: Any, sample: Tensor) -> Tensor:
        """Through the VAE, whose latents are scaled and shifted."""
        return decode_shifted(self._autoencoder(pipe), sample)

    def layout(self, row: PromptRow) -> Hashable:
        """Rows with sources and rows without do not mix; all else may."""
        return bool(row.sources)

    def velocity(
        self,
        model: nn.Module,
        sample: Tensor,
        sigma: Tensor,
        rows: Sequence[PromptRow],
        guidance: float | None,
    ) -> Tensor:
        """One forward over rows of any length; the time stays in fp32 until the model embeds it."""
        images = list(sample.unsqueeze(2))
        prompts = [[piece.to(sample.dtype) for piece in _numbered(row.prompt)] for row in rows]
        about: dict[str, Any] = {}
        if self._is_omni:
            sources = [_all(row, "latent", sample.dtype) for row in rows]
            about["x"] = [[*latents, image] for latents, image in zip(sources, images, strict=True)]
            about["cap_feats"] = prompts
            about["siglip_feats"] = [
                [*_all(row, "features", sample.dtype), None] if row.sources else None for row in rows
            ]
            about["image_noise_mask"] = [[_CLEAN] * len(row.sources) + [_NOISY] for row in rows]
        else:
            about["x"] = images
            about["cap_feats"] = [piece for (piece,) in prompts]
        # 1 - sigma rounded as the pipeline rounds it, for the reason given in `schedule`.
        time = (1000.0 - sigma.to(torch.float32) * 1000.0) / 1000.0
        output: list[Tensor] = model(t=time, return_dict=False, **about)[0]
        return -torch.stack(output).squeeze(2)

    def _autoencoder(self, pipe: Any) -> Any:
        # Omni's pipeline encodes in bfloat16 whatever the other weights have.
        return nn.Module.to(pipe.vae, torch.bfloat16) if self._is_omni else pipe.vae


def _numbered(prompt: Encoded) -> list[Tensor]:
    return [prompt[f"piece{i}"] for i in range(len(prompt))]


def _all(row: PromptRow, name: str, dtype: torch.dtype) -> list[Tensor]:
    return [source[name].to(dtype) for source in row.sources]
