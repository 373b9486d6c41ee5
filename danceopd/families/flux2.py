"""FLUX.2 and FLUX.2 klein: text-to-image, and editing with one or several reference images.

Latents are patchified (2 x 2 patches become channels) and normalised by the VAE's batch-norm statistics;
noise is drawn in that space. Time enters as sigma. Tokens have four position axes (reference, row, column,
word): the image that is made has reference 0, references follow it in the sequence as 10, 20, ..., and only
the image's own part of the output is used. FLUX.2 takes a guidance vector, klein has classifier-free guidance
against the empty prompt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from danceopd.families.conditions import Encoded, PromptRow, stack, stack_sources
from danceopd.families.conventions import Conventions, latent_mode, pixels
from danceopd.families.lora import Factors, Lora
from danceopd.families.shift import even_sigmas

_REFERENCE_STRIDE = 10


class Flux2(Conventions):
    """See `Conventions`."""

    name = "FLUX.2"
    pipelines = ("Flux2Pipeline", "Flux2KleinPipeline")
    # The single blocks fuse q, k, v and the MLP into one projection, which the usual names would miss.
    targets = (
        "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
        "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
        "attn.to_qkv_mlp_proj", "attn.to_out",
    )  # fmt: skip
    default_guidance = 4.0
    max_sources = 10

    @property
    def multiple(self) -> int:
        """Pixels of one patch."""
        return 2 * self.vae_scale

    def shape(self, height: int, width: int) -> tuple[int, int, int]:
        """[128, H/16, W/16]."""
        return int(self.transformer_config["in_channels"]), height // self.multiple, width // self.multiple

    def schedule(self, num_steps: int, shape: Sequence[int]) -> dict[str, Any]:
        """Even sigmas, shifted by a mu that depends on tokens and on steps."""
        from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

        mu = compute_empirical_mu(image_seq_len=shape[-2] * shape[-1], num_steps=num_steps)
        if self.scheduler_config.get("use_flow_sigmas"):
            return {"num_inference_steps": num_steps, "mu": mu}
        return {"sigmas": even_sigmas(num_steps), "mu": mu}

    def encode_prompt(self, pipe: Any, prompt: str, sources: Sequence[Tensor]) -> Encoded:
        """`embeds` [512, D]: hidden layers of the language model, padding included."""
        embeds, _ = pipe.encode_prompt(prompt=prompt)
        return {"embeds": embeds[0]}

    def encode_source(self, pipe: Any, source: Tensor) -> Encoded:
        """`latent` [128, h, w], normalised as the sample is."""
        image = pixels(source, pipe.vae.dtype, pipe.vae.device)
        return {"latent": pipe._encode_vae_image(image, None)[0]}

    def encode_target(self, pipe: Any, image: Tensor) -> Tensor:
        """From the VAE, into normalised patches."""
        patches = pipe._patchify_latents(latent_mode(pipe.vae, image))
        mean, std = _statistics(pipe.vae, patches)
        return ((patches - mean) / std)[0]

    def decode(self, pipe: Any, sample: Tensor) -> Tensor:
        """Out of the normalised patches, through the VAE."""
        mean, std = _statistics(pipe.vae, sample)
        latents = pipe._unpatchify_latents(sample * std + mean)
        return pipe.vae.decode(latents.to(pipe.vae.dtype), return_dict=False)[0]

    def comfyui(self, lora: Lora) -> dict[str, Tensor]:
        """Under the names of the model's makers, its fused layers fused again."""
        return super().comfyui(_in_original_names(lora))

    def velocity(
        self,
        model: nn.Module,
        sample: Tensor,
        sigma: Tensor,
        rows: Sequence[PromptRow],
        guidance: float | None,
    ) -> Tensor:
        """One forward over the image's tokens, followed by those of its references."""
        batch, _, height, width = sample.shape
        embeds = stack([row.prompt for row in rows], "embeds", sample.dtype)
        images = [sample, *stack_sources(rows, "latent", sample.dtype)]
        ids = [_image_ids(image, i * _REFERENCE_STRIDE) for i, image in enumerate(images)]
        output: Tensor = model(
            hidden_states=torch.cat([image.flatten(2).mT for image in images], dim=1),
            timestep=sigma.to(sample.dtype),
            guidance=None if guidance is None else sigma.new_full((batch,), guidance),
            encoder_hidden_states=embeds,
            txt_ids=_text_ids(embeds),
            img_ids=torch.cat(ids),
            return_dict=False,
        )[0]
        return output[:, : height * width].mT.reshape(sample.shape)


def _in_original_names(lora: Lora) -> Lora:
    """The layers as the model's makers name them, where q, k and v of a double block are one layer."""
    groups: dict[str, dict[int, Factors]] = {}
    for layer, factors in lora.items():
        name, place = layer, 0
        for pattern, original, position in _ORIGINAL_NAMES:
            if match := re.fullmatch(pattern, layer):
                name, place = match.expand(original), position
        groups.setdefault(name, {})[place] = factors
    return {name: _side_by_side(parts) for name, parts in groups.items()}


def _side_by_side(parts: Mapping[int, Factors]) -> Factors:
    """One adapter of a fused layer whose thirds are the layers of `parts`: B is block diagonal."""
    if parts.keys() == {0}:
        return parts[0]
    if len({factors.b.shape[0] for factors in parts.values()}) != 1:
        raise ValueError("q, k and v of a block must have the same size to be one layer.")
    rows = next(iter(parts.values())).b.shape[0]
    up = torch.zeros(3 * rows, sum(factors.rank for factors in parts.values()))
    column = 0
    for place, factors in sorted(parts.items()):
        block = factors.b.float() * factors.scale
        up[(place - 1) * rows : place * rows, column : column + factors.rank] = block
        column += factors.rank
    return Factors(torch.cat([parts[place].a.float() for place in sorted(parts)]), up, 1.0)


_DOUBLE_BLOCK = (
    *((rf"attn\.to_{part}", "img_attn.qkv", place) for place, part in enumerate("qkv", 1)),
    *((rf"attn\.add_{part}_proj", "txt_attn.qkv", place) for place, part in enumerate("qkv", 1)),
    (r"attn\.to_out\.0", "img_attn.proj", 0),
    (r"attn\.to_add_out", "txt_attn.proj", 0),
    (r"ff\.linear_in", "img_mlp.0", 0),
    (r"ff\.linear_out", "img_mlp.2", 0),
    (r"ff_context\.linear_in", "txt_mlp.0", 0),
    (r"ff_context\.linear_out", "txt_mlp.2", 0),
)
_ORIGINAL_NAMES = (
    *(
        (rf"transformer_blocks\.(\d+)\.{here}", rf"double_blocks.\1.{there}", place)
        for here, there, place in _DOUBLE_BLOCK
    ),
    (r"single_transformer_blocks\.(\d+)\.attn\.to_qkv_mlp_proj", r"single_blocks.\1.linear1", 0),
    (r"single_transformer_blocks\.(\d+)\.attn\.to_out", r"single_blocks.\1.linear2", 0),
)
"""Pattern of a layer's name, the makers' name, and which third of that layer it is: 1 to 3, or 0 for all."""


def _statistics(vae: Any, sample: Tensor) -> tuple[Tensor, Tensor]:
    mean = vae.bn.running_mean.view(1, -1, 1, 1).to(sample)
    variance = vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps
    return mean, variance.sqrt().to(sample)


def _image_ids(image: Tensor, reference: int) -> Tensor:
    """(reference, row, column, 0) of each token, int64 [h w, 4]."""
    _, _, height, width = image.shape
    ids = torch.zeros(height, width, 4, dtype=torch.int64, device=image.device)
    ids[..., 0] = reference
    ids[..., 1] = torch.arange(height, device=image.device)[:, None]
    ids[..., 2] = torch.arange(width, device=image.device)
    return ids.flatten(0, 1)


def _text_ids(embeds: Tensor) -> Tensor:
    ids = torch.zeros(embeds.shape[1], 4, dtype=torch.int64, device=embeds.device)
    ids[:, 3] = torch.arange(embeds.shape[1], device=embeds.device)
    return ids
