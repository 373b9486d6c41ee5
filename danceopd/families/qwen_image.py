"""Qwen-Image: text-to-image. Qwen-Image-Edit: editing of one image. Qwen-Image-Edit-Plus: of one to three.

Latents are packed, 2 x 2 to a token, and normalised channel by channel; the VAE is one of videos, and an
image is its single frame. Time enters as sigma; the last step leaves a sigma of 0.02. Sources follow the
image in the sequence, only the image's own part of the output is used; a model with `zero_cond_t` sees them
at time 0. Text is padded to the longest of a batch and masked, so that a row does not depend on its
neighbours. Guidance is classifier-free, each token of the guided velocity rescaled to the norm of the
conditional one.

The language model reads the sources together with the prompt, scaled to an area of their own: 1024 x 1024
for Edit, 384 x 384 for Edit-Plus. For the VAE the pipelines scale them, up or down, to the area of 1024 x
1024; here to that of the run's resolution. Edit-Plus may also go without a source, as its prompt encoder can,
though its pipeline does not.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pad_sequence

from danceopd import ops
from danceopd.families.checkpoint import ModelCheckpoint
from danceopd.families.conditions import Encoded, PromptRow, stack_sources
from danceopd.families.conventions import Conventions, pack, pixels, unpack
from danceopd.families.shift import dynamic_shift, even_sigmas

_SOURCES = {"QwenImagePipeline": 0, "QwenImageEditPipeline": 1, "QwenImageEditPlusPipeline": 3}
_AREA_READ = {"QwenImageEditPipeline": 1024 * 1024, "QwenImageEditPlusPipeline": 384 * 384}
_MAX_WORDS = 512


class QwenImage(Conventions):
    """See `Conventions`."""

    name = "Qwen-Image"
    pipelines = tuple(_SOURCES)
    targets = (
        "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
        "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
    )  # fmt: skip
    negative_prompt = " "  # as in the published examples; the pipelines have no default

    def __init__(self, checkpoint: ModelCheckpoint) -> None:
        super().__init__(checkpoint)
        self.max_sources = _SOURCES[self.pipeline_name]
        self.scales_up = self.max_sources > 0
        self.needs_source = self.pipeline_name == "QwenImageEditPipeline"

    @property
    def multiple(self) -> int:
        """Pixels of one token."""
        return 2 * 2 ** len(self.vae_config["temperal_downsample"])  # diffusers' spelling

    def shape(self, height: int, width: int) -> tuple[int, int, int]:
        """[16, H/8, W/8]."""
        tokens_down, tokens_across = height // self.multiple, width // self.multiple
        return int(self.transformer_config["in_channels"]) // 4, 2 * tokens_down, 2 * tokens_across

    def schedule(self, num_steps: int, shape: Sequence[int]) -> dict[str, Any]:
        """Even sigmas, shifted by a mu that depends on the number of tokens.

        Raises:
            ValueError: there is one step only, which cannot end both at 1 and at the terminal sigma.
        """
        if num_steps < 2 and self.scheduler_config.get("shift_terminal"):
            raise ValueError("its terminal sigma needs a step of its own.")
        tokens = shape[-2] * shape[-1] // 4
        return {"sigmas": even_sigmas(num_steps), **dynamic_shift(self.scheduler_config, tokens)}

    def read_with_prompt(self, sources: Sequence[str]) -> Sequence[str | int]:
        """The images themselves."""
        return sources

    def encode_prompt(self, pipe: Any, prompt: str, sources: Sequence[Tensor]) -> Encoded:
        """`embeds` [S, D]: the last hidden layer for the words after the template's, and for the sources."""
        if not self.max_sources:
            embeds, _ = pipe.encode_prompt(prompt=prompt, max_sequence_length=_MAX_WORDS)
            return {"embeds": embeds[0]}
        images = [_read_size(pipe, source, _AREA_READ[self.pipeline_name]) for source in sources]
        if self.pipeline_name == "QwenImageEditPlusPipeline":
            embeds, _ = pipe.encode_prompt(prompt=prompt, image=images or None)
        else:
            embeds, _ = pipe.encode_prompt(prompt=prompt, image=images[0])
        return {"embeds": embeds[0]}

    def encode_source(self, pipe: Any, source: Tensor) -> Encoded:
        """`latent` [16, h, w]: the mode of the VAE's distribution, normalised as the sample is."""
        frame = pixels(source, pipe.vae.dtype, pipe.vae.device)[:, :, None]
        return {"latent": pipe._encode_vae_image(frame, None)[0, :, 0]}

    def encode_target(self, pipe: Any, image: Tensor) -> Tensor:
        """From the VAE as one frame, normalised channel by channel."""
        vae = pipe.vae
        frame = pixels(image, vae.dtype, vae.device)[:, :, None]
        mode = vae.encode(frame).latent_dist.mode()[:, :, 0].float()
        mean, std = _statistics(vae, mode)
        return ((mode - mean) / std)[0]

    def decode(self, pipe: Any, sample: Tensor) -> Tensor:
        """Out of the normalisation, through the VAE as one frame."""
        vae = pipe.vae
        latents = sample.to(vae.dtype)
        mean, std = _statistics(vae, latents)
        return vae.decode((latents * std + mean)[:, :, None], return_dict=False)[0][:, :, 0]

    def layout(self, row: PromptRow) -> Hashable:
        """Shapes of the sources: position ids are those of a batch, prompts of any length can share one."""
        return tuple(source["latent"].shape for source in row.sources)

    def velocity(
        self,
        model: nn.Module,
        sample: Tensor,
        sigma: Tensor,
        rows: Sequence[PromptRow],
        guidance: float | None,
    ) -> Tensor:
        """One forward over the image's tokens, followed by those of its sources."""
        batch, _, height, width = sample.shape
        images = [sample, *stack_sources(rows, "latent", sample.dtype)]
        embeds, mask = _padded([row.prompt["embeds"].to(sample.dtype) for row in rows])
        output: Tensor = model(
            hidden_states=torch.cat([pack(image) for image in images], dim=1),
            timestep=sigma,
            encoder_hidden_states=embeds,
            encoder_hidden_states_mask=mask,
            img_shapes=[[(1, image.shape[-2] // 2, image.shape[-1] // 2) for image in images]] * batch,
            return_dict=False,
        )[0]
        return unpack(output[:, : height * width // 4], height, width)

    def combine(self, uncond: Tensor, cond: Tensor, scale: float) -> Tensor:
        """Classifier-free guidance with each token, all its 64 numbers, rescaled to the conditional norm."""
        norm = pack(cond.float()).norm(dim=-1, keepdim=True)
        guided = pack(ops.guide(uncond.float(), cond.float(), scale))
        return unpack(normalize(guided, dim=-1) * norm, *cond.shape[-2:]).to(cond.dtype)


def _statistics(vae: Any, sample: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = (
        sample.new_tensor(values).view(1, -1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return mean, std


def _read_size(pipe: Any, source: Tensor, area: int) -> Image.Image:
    """A source as the language model sees it: about `area` pixels, with sides that the pipelines choose."""
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as pipelines

    _, height, width = source.shape
    columns, rows = pipelines.calculate_dimensions(area, width / height)
    image = Image.fromarray(source.permute(1, 2, 0).contiguous().cpu().numpy())
    return pipe.image_processor.resize(image, rows, columns)


def _padded(embeds: list[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Prompts [S, D] of several lengths as one [B, max S, D], and which of that are words."""
    lengths = [len(words) for words in embeds]
    if len(set(lengths)) == 1:
        return torch.stack(embeds), None
    padded = pad_sequence(embeds, batch_first=True)
    columns = torch.arange(padded.shape[1])
    mask = columns < torch.tensor(lengths)[:, None]
    return padded, mask.to(padded.device, non_blocking=True)
