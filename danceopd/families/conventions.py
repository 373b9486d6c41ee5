"""What one model family does its own way: the only things that a new family has to say.

The package's contract is sigma from 1 (noise) to 0 (clean), ``x = (1 - sigma) x0 + sigma eps`` and
``v = eps - x0``; samples are spatial latents [B, C, h, w], in the form in which the family's pipeline draws
its noise. Time scale, sign, packing, position ids, guidance formula and shift stay inside.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from danceopd import ops
from danceopd.data import buckets
from danceopd.families.checkpoint import ModelCheckpoint
from danceopd.families.conditions import Encoded, PromptRow
from danceopd.families.lora import Lora
from danceopd.flow import SigmaGrid


class Conventions(ABC):
    """One family's conventions, read from the configs of a checkpoint; no weights are held here.

    Args:
        checkpoint: what the family was loaded from.

    Attributes:
        name: what the family is called in messages and documents.
        pipelines: diffusers' pipeline classes that this file speaks for.
        targets: endings of the layers that a student's LoRA is put on.
        negative_prompt: what guidance contrasts with.
        max_sources: source images of one sample at most; 0 where the family cannot edit.
        default_guidance: the guidance vector of a guidance-distilled model when none is asked for.
        needs_source: whether a sample without a source image cannot be made.
        scales_up: whether the pipeline scales small sources up, to the area that large ones come down to.
        comfyui_prefix: what ComfyUI expects before the layers' names in a LoRA's file.
    """

    name: ClassVar[str]
    pipelines: ClassVar[tuple[str, ...]]
    targets: ClassVar[tuple[str, ...]]
    negative_prompt: ClassVar[str] = ""
    default_guidance: ClassVar[float] = 1.0
    max_sources: int = 0
    needs_source: bool = False
    scales_up: bool = False
    comfyui_prefix: ClassVar[str] = "diffusion_model."

    def __init__(self, checkpoint: ModelCheckpoint) -> None:
        self.pipeline_name = checkpoint.pipeline_name
        self.transformer_config = checkpoint.config("transformer")
        self.vae_config = checkpoint.config("vae")
        self.scheduler_config = checkpoint.config("scheduler")

    # -- sizes and noise levels ------------------------------------------------------------------------------

    @property
    def vae_scale(self) -> int:
        """Pixels of one latent cell along a side, where the VAE halves the sides between its blocks."""
        return 2 ** (len(self.vae_config["block_out_channels"]) - 1)

    @property
    @abstractmethod
    def multiple(self) -> int:
        """What height and width of an image, in pixels, must be multiples of."""

    @abstractmethod
    def shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Latent shape [C, h, w] of an image of `height` x `width` pixels."""

    def sizes(self, resolution: int) -> tuple[tuple[int, int], ...]:
        """Heights and widths in pixels, about `resolution` squared, that images without a size are given.

        Sources are brought to them too.
        """
        return buckets(resolution, self.multiple)

    @abstractmethod
    def schedule(self, num_steps: int, shape: Sequence[int]) -> dict[str, Any]:
        """What the pipeline passes to its scheduler's ``set_timesteps`` for latents of `shape`."""

    def grid(self, num_steps: int, shape: Sequence[int]) -> SigmaGrid:
        """The noise levels that diffusers' own scheduler gives for this checkpoint and size."""
        from diffusers import FlowMatchEulerDiscreteScheduler

        scheduler = FlowMatchEulerDiscreteScheduler.from_config(self.scheduler_config)
        scheduler.set_timesteps(**self.schedule(num_steps, shape))
        return SigmaGrid(tuple(scheduler.sigmas.tolist()))

    # -- encoding and decoding -------------------------------------------------------------------------------

    @abstractmethod
    def encode_prompt(self, pipe: Any, prompt: str, sources: Sequence[Tensor]) -> Encoded:
        """One prompt as the transformer takes it; `sources` as for `encode_source`."""

    def read_with_prompt(self, sources: Sequence[str]) -> Sequence[str | int]:
        """What of the sources, given by their keys, an encoded prompt depends on; nothing for text alone."""
        return ()

    def encode_source(self, pipe: Any, source: Tensor) -> Encoded:
        """One source image, uint8 [3, H, W] with sides that are multiples of `multiple`."""
        raise ValueError(f"sources must be empty for {self.name}, which has no editing; drop the images.")

    @abstractmethod
    def encode_target(self, pipe: Any, image: Tensor) -> Tensor:
        """Clean latent fp32 [C, h, w] of an image, uint8 [3, H, W], in the space of the samples.

        `decode` takes it back through the VAE. It is the mode of the VAE's distribution, so that an image has
        one latent.
        """

    @abstractmethod
    def decode(self, pipe: Any, sample: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [-1, 1] of clean latents [B, C, h, w]."""

    # -- the field -------------------------------------------------------------------------------------------

    @property
    def embeds_guidance(self) -> bool:
        """Whether the transformer takes a guidance vector."""
        return bool(self.transformer_config.get("guidance_embeds", False))

    def layout(self, row: PromptRow) -> Hashable:
        """What rows must share to run in one forward."""
        return row.layout()

    @abstractmethod
    def velocity(
        self,
        model: nn.Module,
        sample: Tensor,
        sigma: Tensor,
        rows: Sequence[PromptRow],
        guidance: float | None,
    ) -> Tensor:
        """``v = eps - x0``, [B, C, h, w], of rows of one layout.

        Args:
            model: the transformer.
            sample: [B, C, h, w] in the model's dtype.
            sigma: fp32 [B].
            rows: B rows.
            guidance: the guidance vector's value, None where the model takes none.
        """

    def combine(self, uncond: Tensor, cond: Tensor, scale: float) -> Tensor:
        """Classifier-free guidance of the family, ``uncond + scale (cond - uncond)`` unless overridden."""
        return ops.guide(uncond, cond, scale)

    # -- export ----------------------------------------------------------------------------------------------

    def comfyui(self, lora: Lora) -> dict[str, Tensor]:
        """A LoRA under the names that ComfyUI reads, alpha among the tensors, where ComfyUI looks for it."""
        tensors: dict[str, Tensor] = {}
        for layer, factors in lora.items():
            stem = f"{self.comfyui_prefix}{layer}"
            tensors[f"{stem}.lora_A.weight"] = factors.a
            tensors[f"{stem}.lora_B.weight"] = factors.b
            tensors[f"{stem}.alpha"] = torch.tensor(factors.scale * factors.rank)
        return tensors


def pixels(source: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """uint8 [3, H, W] as a batch of one in [-1, 1], as the families' image encoders take it."""
    return source.to(device, torch.float32).div(127.5).sub(1.0)[None].to(dtype)


def latent_mode(vae: Any, image: Tensor) -> Tensor:
    """fp32 [1, C, h, w]: the mode of what a VAE makes of an image, uint8 [3, H, W], as it comes out of it."""
    mode: Tensor = vae.encode(pixels(image, vae.dtype, vae.device)).latent_dist.mode()
    return mode.float()


def encode_shifted(vae: Any, image: Tensor) -> Tensor:
    """The latent [C, h, w] that `decode_shifted` inverts."""
    return ((latent_mode(vae, image) - vae.config.shift_factor) * vae.config.scaling_factor)[0]


def decode_shifted(vae: Any, sample: Tensor) -> Tensor:
    """Images [B, 3, H, W] of latents that the family scales and shifts by its VAE's config."""
    latents = sample.to(vae.dtype) / vae.config.scaling_factor + vae.config.shift_factor
    images: Tensor = vae.decode(latents, return_dict=False)[0]
    return images


def pack(latents: Tensor) -> Tensor:
    """[B, C, h, w] -> tokens [B, h/2 * w/2, 4 C], each a 2 x 2 patch in (channel, row, column) order."""
    batch, channels, height, width = latents.shape
    patches = latents.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(batch, (height // 2) * (width // 2), channels * 4)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `pack` for latents of `height` x `width`."""
    patches = tokens.view(len(tokens), height // 2, width // 2, -1, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(len(tokens), -1, height, width)
