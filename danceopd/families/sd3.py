"""Stable Diffusion 3 and 3.5: text-to-image.

Time enters as t in 0 .. 1000, latents are not packed, the output is the velocity itself. Three text encoders:
their embeddings are one sequence, and the two CLIP models give a pooled vector besides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from danceopd.families.conditions import Encoded, PromptRow, stack
from danceopd.families.conventions import Conventions, decode_shifted, encode_shifted
from danceopd.families.shift import dynamic_shift


class StableDiffusion3(Conventions):
    """See `Conventions`."""

    name = "Stable Diffusion 3"
    pipelines = ("StableDiffusion3Pipeline",)
    targets = (
        "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
        "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
    )  # fmt: skip

    comfyui_prefix = "transformer."

    @property
    def multiple(self) -> int:
        """Pixels of one patch."""
        return self.vae_scale * int(self.transformer_config["patch_size"])

    def shape(self, height: int, width: int) -> tuple[int, int, int]:
        """[16, H/8, W/8]."""
        return (
            int(self.transformer_config["in_channels"]),
            height // self.vae_scale,
            width // self.vae_scale,
        )

    def schedule(self, num_steps: int, shape: Sequence[int]) -> dict[str, Any]:
        """The scheduler's own sigmas; a shift that depends on the size where its config says so."""
        patch = int(self.transformer_config["patch_size"])
        return {
            "num_inference_steps": num_steps,
            **dynamic_shift(
                self.scheduler_config, (shape[-2] // patch) * (shape[-1] // patch), {"max_shift": 1.16}
            ),
        }

    def encode_prompt(self, pipe: Any, prompt: str, sources: Sequence[Tensor]) -> Encoded:
        """`embeds` [333, D] for 77 CLIP and 256 T5 tokens, and `pooled`."""
        embeds, _, pooled, _ = pipe.encode_prompt(
            prompt=prompt, prompt_2=None, prompt_3=None, do_classifier_free_guidance=False
        )
        return {"embeds": embeds[0], "pooled": pooled[0]}

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
        """One forward; the time stays in fp32 until the model embeds it."""
        prompts = [row.prompt for row in rows]
        output: Tensor = model(
            hidden_states=sample,
            timestep=sigma.to(torch.float32) * 1000.0,
            encoder_hidden_states=stack(prompts, "embeds", sample.dtype),
            pooled_projections=stack(prompts, "pooled", sample.dtype),
            return_dict=False,
        )[0]
        return output
