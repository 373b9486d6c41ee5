"""Random LoRAs of a tiny transformer, in the formats that people have them in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor, nn

FORMATS = ("diffusers", "diffusers-without-alpha", "peft", "kohya", "comfyui", "comfyui-down")
"""
diffusers                transformer.NAME.lora_A.weight, the adapter's configuration in the file's metadata
diffusers-without-alpha  the same without metadata, which means alpha = rank
peft                     a folder: base_model.model.NAME.lora_A.weight and adapter_config.json
kohya                    lora_unet_NAME.lora_down.weight, .lora_up.weight, .alpha; NAME with _ for its dots
comfyui                  diffusion_model.NAME.lora_A.weight, alpha = rank
comfyui-down             diffusion_model.NAME.lora_down.weight, .lora_up.weight, .alpha
In the last three NAME is a module of the model's original code where that is what diffusers converts (FLUX).
"""
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
CONVERTED = {
    "sd3": ("diffusers", "diffusers-without-alpha"),
    "flux1-dev": ("diffusers", "diffusers-without-alpha", "kohya", "comfyui-down"),
    "flux2-klein": ("diffusers", "diffusers-without-alpha", "kohya", "comfyui"),
    "qwen-image": ("diffusers", "diffusers-without-alpha", "kohya", "comfyui", "comfyui-down"),
    "z-image": ("diffusers", "diffusers-without-alpha", "kohya", "comfyui", "comfyui-down"),
}
"""What a pipeline's own ``load_lora_weights`` makes exactly this LoRA of, for one kind per transformer class.

The others load as nothing, at another strength, or stop with an error; it reads no ``adapter_config.json``.
"""

_FLUX_BLOCKS = (
    (r"transformer_blocks\.(\d+)\.attn\.to_[qkv]", r"double_blocks.\1.img_attn.qkv"),
    (r"transformer_blocks\.(\d+)\.attn\.add_[qkv]_proj", r"double_blocks.\1.txt_attn.qkv"),
    (r"transformer_blocks\.(\d+)\.attn\.to_out\.0", r"double_blocks.\1.img_attn.proj"),
    (r"transformer_blocks\.(\d+)\.attn\.to_add_out", r"double_blocks.\1.txt_attn.proj"),
)
_ORIGINAL_NAMES = {
    "FluxTransformer2DModel": (
        *_FLUX_BLOCKS,
        (r"transformer_blocks\.(\d+)\.ff\.net\.0\.proj", r"double_blocks.\1.img_mlp.0"),
        (r"transformer_blocks\.(\d+)\.ff\.net\.2", r"double_blocks.\1.img_mlp.2"),
        (r"transformer_blocks\.(\d+)\.ff_context\.net\.0\.proj", r"double_blocks.\1.txt_mlp.0"),
        (r"transformer_blocks\.(\d+)\.ff_context\.net\.2", r"double_blocks.\1.txt_mlp.2"),
        (r"transformer_blocks\.(\d+)\.norm1\.linear", r"double_blocks.\1.img_mod.lin"),
        (r"transformer_blocks\.(\d+)\.norm1_context\.linear", r"double_blocks.\1.txt_mod.lin"),
        (r"single_transformer_blocks\.(\d+)\.(attn\.to_[qkv]|proj_mlp)", r"single_blocks.\1.linear1"),
        (r"single_transformer_blocks\.(\d+)\.proj_out", r"single_blocks.\1.linear2"),
        (r"single_transformer_blocks\.(\d+)\.norm\.linear", r"single_blocks.\1.modulation.lin"),
    ),
    "Flux2Transformer2DModel": (
        *_FLUX_BLOCKS,
        (r"transformer_blocks\.(\d+)\.ff\.linear_in", r"double_blocks.\1.img_mlp.0"),
        (r"transformer_blocks\.(\d+)\.ff\.linear_out", r"double_blocks.\1.img_mlp.2"),
        (r"transformer_blocks\.(\d+)\.ff_context\.linear_in", r"double_blocks.\1.txt_mlp.0"),
        (r"transformer_blocks\.(\d+)\.ff_context\.linear_out", r"double_blocks.\1.txt_mlp.2"),
        (r"single_transformer_blocks\.(\d+)\.attn\.to_qkv_mlp_proj", r"single_blocks.\1.linear1"),
        (r"single_transformer_blocks\.(\d+)\.attn\.to_out", r"single_blocks.\1.linear2"),
    ),
}


@dataclass(frozen=True)
class Lora:
    """A LoRA on disk: ``path`` is its file (a folder for peft), ``deltas`` what it adds to the weights."""

    path: Path
    deltas: dict[str, Tensor]


def make_lora(
    transformer: nn.Module,
    folder: Path | str,
    *,
    fmt: str = "diffusers",
    rank: int = 4,
    alpha: float = 8.0,
    targets: Iterable[str] | None = None,
    seed: int = 0,
    strength: float = 0.5,
) -> Lora:
    """Write a random LoRA of the linear layers whose name ends in one of ``targets``, by default attention.

    The formats without alpha are written with alpha = rank. Where a format fuses modules, as query, key and
    value, all must be targets and share ``lora_A``. ``strength``: norm of a delta over its weight's norm.
    """
    if fmt not in FORMATS:
        raise ValueError(f"fmt is one of {', '.join(FORMATS)}, not {fmt!r}.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if fmt in ("diffusers-without-alpha", "comfyui"):
        alpha = float(rank)
    original = fmt.startswith(("kohya", "comfyui"))
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, Tensor] = {}
    deltas: dict[str, Tensor] = {}
    wanted = default_targets(transformer, fmt) if targets is None else tuple(targets)
    for name, modules in grouped(transformer, wanted, original=original).items():
        linears = [transformer.get_submodule(module) for module in modules]
        rows, columns = sum(linear.out_features for linear in linears), linears[0].in_features
        down = torch.randn(rank, columns, generator=generator) / columns**0.5
        up = torch.randn(rows, rank, generator=generator)
        size = torch.cat([linear.weight.detach().float() for linear in linears]).norm()
        up *= strength * size / (alpha / rank * up @ down).norm()
        weights |= _entries(fmt, name, down, up, alpha)
        pieces = (alpha / rank * up @ down).split([linear.out_features for linear in linears])
        deltas |= dict(zip(modules, pieces, strict=True))
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=sorted(deltas), init_lora_weights=False)
    if fmt == "peft":
        config.save_pretrained(str(folder))
        save_file(weights, folder / "adapter_model.safetensors", {"format": "pt"})
        return Lora(folder, deltas)
    metadata = {"format": "pt"}
    if fmt == "diffusers":
        settings = {"r": rank, "lora_alpha": alpha, "target_modules": sorted(deltas), "peft_type": "LORA"}
        metadata["lora_adapter_metadata"] = json.dumps(
            {f"transformer.{key}": value for key, value in settings.items()}
        )
    path = folder / "pytorch_lora_weights.safetensors"
    save_file(weights, path, metadata)
    return Lora(path, deltas)


def default_targets(transformer: nn.Module, fmt: str) -> tuple[str, ...]:
    """Attention of every block; of FLUX.1's double blocks only in the formats with fused single blocks.

    diffusers splits those at the real model's widths, which a tiny one does not have.
    """
    kind = type(transformer).__name__
    if kind == "Flux2Transformer2DModel":
        return (*ATTENTION, "to_qkv_mlp_proj", "attn.to_out")
    if kind == "FluxTransformer2DModel" and fmt.startswith(("kohya", "comfyui")):
        blocks = range(len(transformer.transformer_blocks))
        return tuple(f"transformer_blocks.{block}.attn.{end}" for block in blocks for end in ATTENTION)
    return ATTENTION


def grouped(transformer: nn.Module, targets: tuple[str, ...], *, original: bool) -> dict[str, list[str]]:
    """The targeted modules under their name in a format, several where the original code has them as one."""
    table = _ORIGINAL_NAMES.get(type(transformer).__name__, ()) if original else ()
    groups: dict[str, list[str]] = {}
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear):
            groups.setdefault(_renamed(name, table), []).append(name)
    chosen: dict[str, list[str]] = {}
    for name, modules in groups.items():
        hits = [any(module == end or module.endswith(f".{end}") for end in targets) for module in modules]
        if any(hits) and not all(hits):
            raise ValueError(
                f"targets must name all of {modules}, which are one layer ({name}) in this format."
            )
        if any(hits):
            chosen[name] = sorted(modules, key=_row) if len(modules) > 1 else modules
    if not chosen:
        raise ValueError(f"No linear layer of {type(transformer).__name__} ends in one of {targets}.")
    return chosen


def _row(module: str) -> str:
    """Sorts the parts of a fused weight as its rows are: query, key, value, MLP."""
    letter = "m" if module.endswith("proj_mlp") else re.findall(r"_([qkv])(?:_proj)?$", module)[0]
    return str("qkvm".index(letter))


def _renamed(name: str, table: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in table:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    return name


def _entries(fmt: str, name: str, down: Tensor, up: Tensor, alpha: float) -> dict[str, Tensor]:
    if fmt in ("kohya", "comfyui-down"):
        stem = "lora_unet_" + name.replace(".", "_") if fmt == "kohya" else "diffusion_model." + name
        return {
            f"{stem}.lora_down.weight": down,
            f"{stem}.lora_up.weight": up,
            f"{stem}.alpha": torch.tensor(alpha),
        }
    prefix = {"peft": "base_model.model.", "comfyui": "diffusion_model."}.get(fmt, "transformer.")
    return {f"{prefix}{name}.lora_A.weight": down, f"{prefix}{name}.lora_B.weight": up}
