"""Both schedulers in diffusers' configs and pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)

from danceopd.schedulers import FusedFlowMatchAB2Scheduler, FusedFlowMatchEulerScheduler
from tests.schedulers.stock import DEVICES, Tensor


@pytest.mark.parametrize("kind", [FusedFlowMatchEulerScheduler, FusedFlowMatchAB2Scheduler])
def test_configs_go_both_ways(kind: type[Any], tmp_path: Path) -> None:
    config = {"shift": 3.0, "use_dynamic_shifting": True, "shift_terminal": 0.02, "base_shift": 0.4}
    stock = FlowMatchEulerDiscreteScheduler(**config)
    fused = kind.from_config(stock.config)
    back = FlowMatchEulerDiscreteScheduler.from_config(fused.config)
    fused.save_pretrained(tmp_path)
    loaded = kind.from_pretrained(tmp_path)
    stock_again = FlowMatchEulerDiscreteScheduler.from_pretrained(tmp_path)
    for scheduler in (fused, back, loaded, stock_again):
        for key, value in stock.config.items():
            assert key.startswith("_") or scheduler.config[key] == value, key
    assert type(back) is type(stock_again) is FlowMatchEulerDiscreteScheduler
    with pytest.raises(ValueError, match="mu"):
        loaded.set_timesteps(4)


# -- pipelines -----------------------------------------------------------------------------------------------


def tiny_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(4,),
        latent_channels=4,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.06,
        scaling_factor=1.5,
    )


def sd3() -> tuple[DiffusionPipeline, dict[str, Any]]:
    """A random SD3 with a static shift, and what to call it with."""
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=8,
        caption_projection_dim=16,
        pooled_projection_dim=8,
    )
    absent = dict.fromkeys(f"{part}{i}" for part in ("text_encoder", "tokenizer") for i in ("", "_2", "_3"))
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipe = StableDiffusion3Pipeline(transformer=transformer, scheduler=scheduler, vae=tiny_vae(), **absent)
    call = {
        "prompt_embeds": torch.randn(2, 5, 8),
        "negative_prompt_embeds": torch.randn(2, 5, 8),
        "pooled_prompt_embeds": torch.randn(2, 8),
        "negative_pooled_prompt_embeds": torch.randn(2, 8),
        "latents": torch.randn(2, 4, 8, 8),
    }
    return pipe, call


def flux() -> tuple[DiffusionPipeline, dict[str, Any]]:
    """A random FLUX.1, whose grid shifts with the image's size."""
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        axes_dims_rope=(4, 4, 8),
    )
    absent = dict.fromkeys(f"{part}{i}" for part in ("text_encoder", "tokenizer") for i in ("", "_2"))
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    pipe = FluxPipeline(transformer=transformer, scheduler=scheduler, vae=tiny_vae(), **absent)
    call = {
        "prompt_embeds": torch.randn(2, 5, 8),
        "pooled_prompt_embeds": torch.randn(2, 8),
        "latents": torch.randn(2, 16, 16),
    }
    return pipe, call


@pytest.fixture(params=[sd3, flux], ids=["sd3", "flux"])
def pipeline(request: pytest.FixtureRequest) -> tuple[DiffusionPipeline, dict[str, Any]]:
    torch.manual_seed(0)
    pipe, call = request.param()
    pipe.set_progress_bar_config(disable=True)
    size = 8 if request.param is sd3 else 4 * 2
    return pipe, call | {"height": size, "width": size, "num_inference_steps": 5, "output_type": "np"}


def images(pipe: DiffusionPipeline, call: dict[str, Any], device: str, dtype: torch.dtype) -> np.ndarray:
    pipe = pipe.to(device, dtype)
    moved = {k: v.to(device, dtype) if isinstance(v, Tensor) else v for k, v in call.items()}
    return pipe(**moved).images


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("dtype", "levels"), [(torch.float32, 1e-3), (torch.bfloat16, 8.0)])
def test_a_stock_pipeline_paints_the_same(
    pipeline: tuple[DiffusionPipeline, dict[str, Any]], device: str, dtype: torch.dtype, levels: float
) -> None:
    pipe, call = pipeline
    stock = images(pipe, call, device, dtype)
    pipe.scheduler = FusedFlowMatchEulerScheduler.from_config(pipe.scheduler.config)
    fused = images(pipe, call, device, dtype)
    assert stock.std() > 0.02
    assert np.abs(stock - fused).max() * 255 <= levels


@pytest.mark.parametrize("kind", [FusedFlowMatchEulerScheduler, FusedFlowMatchAB2Scheduler])
def test_a_saved_pipeline_loads_with_its_scheduler(
    kind: type[Any], pipeline: tuple[DiffusionPipeline, dict[str, Any]], tmp_path: Path
) -> None:
    pipe, call = pipeline
    pipe.scheduler = kind.from_config(pipe.scheduler.config)
    before = images(pipe, call, "cpu", torch.float32)
    pipe.save_pretrained(tmp_path)
    absent = {name: None for name, part in pipe.components.items() if part is None}
    loaded = type(pipe).from_pretrained(tmp_path, **absent)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded.scheduler) is kind
    assert np.array_equal(images(loaded, call, "cpu", torch.float32), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_second_order_comes_closer_in_a_pipeline(
    pipeline: tuple[DiffusionPipeline, dict[str, Any]], dtype: torch.dtype
) -> None:
    pipe, call = pipeline
    stock = pipe.scheduler
    many = images(pipe, call | {"num_inference_steps": 200}, "cpu", torch.float32)
    far = images(pipe, call | {"num_inference_steps": 10}, "cpu", dtype)
    pipe.scheduler = FusedFlowMatchAB2Scheduler.from_config(stock.config)
    near = images(pipe, call | {"num_inference_steps": 10}, "cpu", dtype)
    assert np.abs(near - many).mean() < np.abs(far - many).mean()
