"""Qwen-Image, Qwen-Image-Edit and Qwen-Image-Edit-Plus."""

from __future__ import annotations

from diffusers import (
    AutoencoderKLQwenImage,
    QwenImageEditPipeline,
    QwenImageEditPlusPipeline,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from tests.families.tiny import words
from tests.families.tiny.parts import flux_scheduler, liven
from tests.families.tiny.processors import PATCH, qwen_processor

WIDTH = 32
MEANS = [
    -0.76,
    -0.71,
    -0.91,
    0.11,
    -0.17,
    0.97,
    -0.15,
    1.55,
    0.41,
    -0.07,
    0.55,
    -0.36,
    -0.19,
    -0.95,
    0.25,
    -0.29,
]
SCALES = [2.82, 1.45, 2.33, 2.66, 1.22, 1.77, 2.61, 2.07, 3.27, 2.15, 2.87, 1.56, 1.64, 1.13, 2.83, 1.92]


def _text_encoder() -> Qwen2_5_VLForConditionalGeneration:
    tokenizer = words.qwen()
    token, end = tokenizer.convert_tokens_to_ids, tokenizer.pad_token_id
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": WIDTH,
            "intermediate_size": 2 * WIDTH,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 4096,
            "pad_token_id": end,
            "bos_token_id": end,
            "eos_token_id": end,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_heads": 2,
            "out_hidden_size": WIDTH,
            "patch_size": PATCH,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [0],
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
    )
    return liven(Qwen2_5_VLForConditionalGeneration(config))


def _components(*, zero_cond_t: bool = False) -> dict[str, object]:
    return {
        "scheduler": flux_scheduler(
            shift=1.0,
            max_shift=0.9,
            max_image_seq_len=8192,
            shift_terminal=0.02,
            time_shift_type="exponential",
        ),
        "vae": AutoencoderKLQwenImage(
            base_dim=4, z_dim=16, num_res_blocks=1, latents_mean=MEANS, latents_std=SCALES
        ).eval(),
        "text_encoder": _text_encoder(),
        "tokenizer": words.qwen(),
        "transformer": liven(
            QwenImageTransformer2DModel(
                in_channels=64,
                out_channels=16,
                num_layers=2,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=WIDTH,
                axes_dims_rope=(4, 6, 6),
                zero_cond_t=zero_cond_t,
            )
        ),
    }


def qwen_image() -> QwenImagePipeline:
    return QwenImagePipeline(**_components())


def qwen_image_edit() -> QwenImageEditPipeline:
    return QwenImageEditPipeline(**_components(), processor=qwen_processor(words.qwen()))


def qwen_image_edit_plus() -> QwenImageEditPlusPipeline:
    """The later release, whose transformer sees its sources at time 0."""
    return QwenImageEditPlusPipeline(**_components(zero_cond_t=True), processor=qwen_processor(words.qwen()))
