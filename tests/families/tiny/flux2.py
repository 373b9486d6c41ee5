"""FLUX.2 dev (Mistral 3, guidance vector) and klein (Qwen 3)."""

from __future__ import annotations

from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline, Flux2Pipeline, Flux2Transformer2DModel
from transformers import (
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    PixtralVisionConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests.families.tiny import words
from tests.families.tiny.parts import flux_scheduler, liven

WIDTH = 16
"""Of one layer of the text encoder; the pipelines stack three layers."""


def autoencoder_flux2() -> AutoencoderKLFlux2:
    """As the real one with fewer channels; the batch norm's statistics are far from 0 and 1."""
    vae = AutoencoderKLFlux2(
        latent_channels=32, block_out_channels=(4, 4, 8, 8), layers_per_block=1, norm_num_groups=2
    ).eval()
    vae.bn.running_mean.normal_(std=0.3)
    vae.bn.running_var.uniform_(0.1, 0.6)
    return vae


def _transformer(guidance: bool) -> Flux2Transformer2DModel:
    return liven(
        Flux2Transformer2DModel(
            in_channels=128,
            num_layers=1,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=3 * WIDTH,
            timestep_guidance_channels=32,
            mlp_ratio=3.0,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=guidance,
        )
    )


def _layers(count: int, vocabulary: int) -> dict[str, object]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": count,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
    }


def qwen3(layers: int) -> Qwen3ForCausalLM:
    tokenizer = words.qwen()
    end = tokenizer.pad_token_id
    config = Qwen3Config(
        **_layers(layers, len(tokenizer)), pad_token_id=end, bos_token_id=end, eos_token_id=end
    )
    return liven(Qwen3ForCausalLM(config))


def mistral3(layers: int) -> Mistral3ForConditionalGeneration:
    config = Mistral3Config(
        text_config=MistralConfig(
            **_layers(layers, len(words.mistral())), pad_token_id=words.MISTRAL_PAD, sliding_window=None
        ),
        vision_config=PixtralVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            head_dim=8,
            image_size=28,
            patch_size=14,
        ),
        image_token_index=words.MISTRAL_SPECIAL.index("[IMG]"),
    )
    return liven(Mistral3ForConditionalGeneration(config))


def flux2() -> Flux2Pipeline:
    return Flux2Pipeline(
        scheduler=flux_scheduler(),
        vae=autoencoder_flux2(),
        text_encoder=mistral3(30),  # the pipeline reads layers 10, 20 and 30
        tokenizer=words.mistral(),
        transformer=_transformer(guidance=True),
    )


def flux2_klein() -> Flux2KleinPipeline:
    return Flux2KleinPipeline(
        scheduler=flux_scheduler(),
        vae=autoencoder_flux2(),
        text_encoder=qwen3(27),  # the pipeline reads layers 9, 18 and 27
        tokenizer=words.qwen(),
        transformer=_transformer(guidance=False),
        is_distilled=False,
    )
