"""What the tiny pipelines share: weights that make a model react, schedulers and small autoencoders."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from torch import nn

QK_GAIN = 2.5
"""Scale of the query and key norms: with 1, random attention is nearly flat and a prompt hardly matters."""

_QK_NORMS = ("norm_q", "norm_k", "norm_added_q", "norm_added_k", "q_norm", "k_norm")


@torch.no_grad()
def liven(model: nn.Module) -> nn.Module:
    """Draw weights anew so that the output depends on every input, zero-initialised layers included."""
    drawn: set[int] = set()
    for name, module in model.named_modules():
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if isinstance(module, nn.Embedding):
            weight.normal_()
        elif isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d)):
            weight.normal_(std=weight[0].numel() ** -0.5)
        elif isinstance(weight, nn.Parameter) and weight.ndim == 1:  # a norm
            weight.normal_(QK_GAIN if name.rsplit(".", 1)[-1] in _QK_NORMS else 1.0, 0.2)
        else:
            continue
        drawn.add(id(weight))
        if isinstance(bias, nn.Parameter):
            bias.normal_(std=0.1)
            drawn.add(id(bias))
    for parameter in model.parameters():
        if id(parameter) not in drawn:  # pad tokens, class embeddings
            parameter.normal_(std=0.5)
    return model.eval()


def flux_scheduler(**changes: object) -> FlowMatchEulerDiscreteScheduler:
    """Dynamic shifting as FLUX.1, FLUX.2 and Qwen-Image ship it."""
    settings: dict[str, object] = {
        "use_dynamic_shifting": True,
        "shift": 3.0,
        "base_shift": 0.5,
        "max_shift": 1.15,
        "base_image_seq_len": 256,
        "max_image_seq_len": 4096,
    }
    return FlowMatchEulerDiscreteScheduler(**{**settings, **changes})


def autoencoder(latent_channels: int = 16) -> AutoencoderKL:
    """Eight pixels per latent cell, as the real one, in blocks of 4 to 8 channels."""
    return AutoencoderKL(
        latent_channels=latent_channels,
        block_out_channels=(4, 4, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=2,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=0.36,
        shift_factor=0.12,
    ).eval()


def as_bfloat16(model: nn.Module) -> nn.Module:
    """In place, without the log line of diffusers' own ``to``."""
    return nn.Module.to(model, torch.bfloat16)
