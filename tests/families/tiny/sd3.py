"""Stable Diffusion 3.5: two CLIP encoders and a T5, dual attention in the first block."""

from __future__ import annotations

from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from tests.families.tiny import words
from tests.families.tiny.parts import autoencoder, liven


def clip_config(width: int) -> CLIPTextConfig:
    tokenizer = words.clip()
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def t5_encoder(width: int) -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(words.t5()),
        d_model=width,
        d_kv=8,
        d_ff=2 * width,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
        use_cache=False,
    )
    return liven(T5EncoderModel(config))


def sd3() -> StableDiffusion3Pipeline:
    return StableDiffusion3Pipeline(
        transformer=liven(
            SD3Transformer2DModel(
                sample_size=16,
                patch_size=2,
                in_channels=16,
                num_layers=2,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=32,
                caption_projection_dim=32,
                pooled_projection_dim=32,
                pos_embed_max_size=24,
                dual_attention_layers=(0,),
                qk_norm="rms_norm",
            )
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(),
        text_encoder=liven(CLIPTextModelWithProjection(clip_config(16))),
        tokenizer=words.clip(),
        text_encoder_2=liven(CLIPTextModelWithProjection(clip_config(16))),
        tokenizer_2=words.clip(),
        text_encoder_3=t5_encoder(32),
        tokenizer_3=words.t5(),
    )
