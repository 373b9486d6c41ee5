"""FLUX.1: dev (guidance vector), schnell (none) and Kontext (source tokens)."""

from __future__ import annotations

from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FluxKontextPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
)
from transformers import CLIPTextModel

from tests.families.tiny import words
from tests.families.tiny.parts import autoencoder, flux_scheduler, liven
from tests.families.tiny.sd3 import clip_config, t5_encoder


def _components(guidance: bool) -> dict[str, object]:
    return {
        "transformer": liven(
            FluxTransformer2DModel(
                in_channels=64,
                num_layers=2,
                num_single_layers=2,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=32,
                pooled_projection_dim=16,
                guidance_embeds=guidance,
                axes_dims_rope=(4, 6, 6),
            )
        ),
        "scheduler": flux_scheduler(),
        "vae": autoencoder(),
        "text_encoder": liven(CLIPTextModel(clip_config(16))),
        "tokenizer": words.clip(),
        "text_encoder_2": t5_encoder(32),
        "tokenizer_2": words.t5(),
    }


def flux1_dev() -> FluxPipeline:
    return FluxPipeline(**_components(guidance=True))


def flux1_schnell() -> FluxPipeline:
    """Schnell ships an unshifted grid beside the missing guidance."""
    return FluxPipeline(
        **{**_components(guidance=False), "scheduler": FlowMatchEulerDiscreteScheduler(shift=1.0)}
    )


def flux1_kontext() -> FluxKontextPipeline:
    return FluxKontextPipeline(**_components(guidance=True))
