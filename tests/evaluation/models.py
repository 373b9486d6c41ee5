"""Tiny random models in folders as users have them, made without a network."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import torch
from transformers import (
    BitImageProcessorPil,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from tests.families.tiny import words

SIDE = 32


@cache
def clip_folder() -> Path:
    folder = Path(mkdtemp(prefix="tiny-clip-"))
    tokenizer = words.clip()
    layers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    torch.manual_seed(3)
    config = CLIPConfig(
        text_config=layers | text,
        vision_config=layers | {"image_size": SIDE, "patch_size": 8},
        projection_dim=16,
    )
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    crop = {"height": SIDE, "width": SIDE}
    CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=crop).save_pretrained(folder)
    return folder


@cache
def dinov2_folder() -> Path:
    folder = Path(mkdtemp(prefix="tiny-dinov2-"))
    torch.manual_seed(4)
    Dinov2Model(
        Dinov2Config(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE, patch_size=8
        )
    ).save_pretrained(folder)
    crop = {"height": SIDE, "width": SIDE}
    BitImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=crop).save_pretrained(folder)
    return folder


@cache
def dino_folder() -> Path:
    """Without a pooler, as DINO's authors publish it."""
    folder = Path(mkdtemp(prefix="tiny-dino-"))
    torch.manual_seed(5)
    config = ViTConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=8,
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


def lpips_folder(folder: Path) -> Path:
    """Random weights under the names and in the shapes of the published ones."""
    generator = torch.Generator().manual_seed(6)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * 0.05

    layers = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
    backbone = {
        f"features.{n}.weight": random(out, into, size, size) for n, (out, into, size) in layers.items()
    }
    backbone |= {f"features.{n}.bias": random(out) for n, (out, _, _) in layers.items()}
    linear = {
        f"lin{index}.model.1.weight": random(1, out, 1, 1).abs()
        for index, (out, _, _) in enumerate(layers.values())
    }
    torch.save(backbone, folder / "alexnet-owt-7be5be79.pth")
    torch.save(linear, folder / "alex.pth")
    return folder
