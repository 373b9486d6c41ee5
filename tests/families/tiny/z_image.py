"""Z-Image and Z-Image Omni."""

from __future__ import annotations

from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    ZImageOmniPipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import Siglip2ImageProcessorPil, Siglip2VisionConfig, Siglip2VisionModel

from tests.families.tiny import words
from tests.families.tiny.flux2 import WIDTH, qwen3
from tests.families.tiny.parts import as_bfloat16, autoencoder, liven

SIGLIP = 16


def _transformer(siglip: int | None) -> ZImageTransformer2DModel:
    return liven(
        ZImageTransformer2DModel(
            in_channels=16,
            dim=32,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=WIDTH,
            siglip_feat_dim=siglip,
            axes_dims=[4, 6, 6],
            axes_lens=[1024, 512, 512],
        )
    )


def _components(siglip: int | None) -> dict[str, object]:
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
        "vae": autoencoder(),
        "text_encoder": qwen3(2),
        "tokenizer": words.qwen(),
        "transformer": _transformer(siglip),
    }


def z_image() -> ZImagePipeline:
    return ZImagePipeline(**_components(None))


def z_image_omni() -> ZImageOmniPipeline:
    """With its autoencoder in bfloat16, in which the pipeline encodes sources whatever the weights have."""
    config = Siglip2VisionConfig(
        hidden_size=SIGLIP,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_patches=16,
        patch_size=16,
    )
    components = _components(SIGLIP)
    return ZImageOmniPipeline(
        **{**components, "vae": as_bfloat16(components["vae"])},
        siglip=liven(Siglip2VisionModel(config)),
        siglip_processor=Siglip2ImageProcessorPil(patch_size=16, max_num_patches=16),
    )
