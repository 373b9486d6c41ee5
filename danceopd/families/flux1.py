"""FLUX.1 dev and schnell: text-to-image. FLUX.1 Kontext: text-to-image, and editing of one image.

Latents are packed, 2 x 2 to a token. Time enters as sigma. The text's sequence is T5's embedding of the
prompt, padded to 512 tokens without a mask; CLIP's pooled vector goes with the time. Tokens have three
position axes (image, row, column), words are at the origin; the image that is made is 0, the source follows
it in the sequence as 1, and only the image's own part of the output is used. Dev and Kontext take a
guidance vector, schnell takes none; classifier-free guidance, against the empty prompt, is possible on top
of it.

Kontext scales a source, up or down, to the nearest of seventeen sizes of about a megapixel, on which it was
trained; here to those sizes at the run's resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from danceopd.families.checkpoint import ModelCheckpoint
from danceopd.families.conditions import Encoded, PromptRow, stack, stack_sources
from danceopd.families.conventions import Conventions, decode_shifted, encode_shifted, pack, pixels, unpack
from danceopd.families.shift import dynamic_shift, even_sigmas

_KONTEXT_SIDE = 1024  # of the square one of its sizes, in pixels


class Flux1(Conventions):
    """See `Conventions`."""

    name = "FLUX.1"
    pipelines = ("FluxPipeline", "FluxKontextPipeline")
    targets = (
        "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
        "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
    )  # fmt: skip
    default_guidance = 3.5
    # With it ComfyUI knows diffusers' names of FLUX.1; its own prefix is for the makers' names there.
    comfyui_prefix = "transformer."

    def __init__(self, checkpoint: ModelCheckpoint) -> None:
        super().__init__(checkpoint)
        self.scales_up = self.pipeline_name == "FluxKontextPipeline"
        self.max_sources = int(self.scales_up)

    @property
    def multiple(self) -> int:
        """Pixels of one token."""
        return 2 * self.vae_scale

    def shape(self, height: int, width: int) -> tuple[int, int, int]:
        """[16, H/8, W/8]."""
        tokens_down, tokens_across = height // self.multiple, width // self.multiple
        return int(self.transformer_config["in_channels"]) // 4, 2 * tokens_down, 2 * tokens_across

    def sizes(self, resolution: int) -> tuple[tuple[int, int], ...]:
        """Kontext's own, as large as the resolution says; of the others the usual ones."""
        if not self.max_sources:
            return super().sizes(resolution)
        from diffusers.pipelines.flux.pipeline_flux_kontext import PREFERRED_KONTEXT_RESOLUTIONS

        unit = self.multiple * _KONTEXT_SIDE / resolution
        scaled = {
            (max(1, round(height / unit)) * self.multiple, max(1, round(width / unit)) * self.multiple)
            for width, height in PREFERRED_KONTEXT_RESOLUTIONS
        }
        return tuple(sorted(scaled, key=lambda size: size[0] / size[1]))

    def schedule(self, num_steps: int, shape: Sequence[int]) -> dict[str, Any]:
        """Even sigmas, shifted by a mu that depends on the number of tokens where the scheduler wants it."""
        shift = dynamic_shift(self.scheduler_config, shape[-2] * shape[-1] // 4)
        if self.scheduler_config.get("use_flow_sigmas"):
            return {"num_inference_steps": num_steps, **shift}
        return {"sigmas": even_sigmas(num_steps), **shift}

    def encode_prompt(self, pipe: Any, prompt: str, sources: Sequence[Tensor]) -> Encoded:
        """`embeds` [512, D] of T5, padding included, and `pooled` of CLIP."""
        embeds, pooled, _ = pipe.encode_prompt(prompt=prompt, prompt_2=None)
        return {"embeds": embeds[0], "pooled": pooled[0]}

    def encode_source(self, pipe: Any, source: Tensor) -> Encoded:
        """`latent` [16, h, w]: the mode of the VAE's distribution, scaled as the sample is."""
        image = pixels(source, pipe.vae.dtype, pipe.vae.device)
        return {"latent": pipe._encode_vae_image(image, None)[0]}

    def encode_target(self, pipe: Any, image: Tensor) -> Tensor:
        """From the VAE, scaled and shifted."""
        return encode_shifted(pipe.vae, image)

    def decode(self, pipe: Any, sample: Tensor) -> Tensor:
        """Through the VAE, whose latents are scaled and shifted."""
        return decode_shifted(pipe.vae, sample)

    def velocity(
        self,
        model: nn.Module,
        sample: Tensor,
        sigma: Tensor,
        rows: Sequence[PromptRow],
        guidance: float | None,
    ) -> Tensor:
        """One forward over the image's tokens, followed by those of its source."""
        batch, _, height, width = sample.shape
        prompts = [row.prompt for row in rows]
        embeds = stack(prompts, "embeds", sample.dtype)
        images = [sample, *stack_sources(rows, "latent", sample.dtype)]
        output: Tensor = model(
            hidden_states=torch.cat([pack(image) for image in images], dim=1),
            timestep=sigma,
            guidance=None if guidance is None else sigma.new_full((batch,), guidance),
            pooled_projections=stack(prompts, "pooled", sample.dtype),
            encoder_hidden_states=embeds,
            txt_ids=torch.zeros(embeds.shape[1], 3, dtype=torch.int64, device=sample.device),
            img_ids=torch.cat([_image_ids(image, i) for i, image in enumerate(images)]),
            return_dict=False,
        )[0]
        return unpack(output[:, : height * width // 4], height, width)


def _image_ids(image: Tensor, number: int) -> Tensor:
    """(number, row, column) of each token, int64 [h/2 * w/2, 3]."""
    rows, columns = image.shape[-2] // 2, image.shape[-1] // 2
    ids = torch.full((rows, columns, 3), number, dtype=torch.int64, device=image.device)
    ids[..., 1] = torch.arange(rows, device=image.device)[:, None]
    ids[..., 2] = torch.arange(columns, device=image.device)
    return ids.flatten(0, 1)
