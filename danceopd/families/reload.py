"""Load an export the way its users do, in a process of its own, and answer one question with it.

Called by `danceopd.families.export` as ``python -m danceopd.families.reload QUESTION ANSWER``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from danceopd.families.checkpoint import ModelCheckpoint
from danceopd.families.conditions import PromptRow
from danceopd.families.lora import linear_layers, load_adapter
from danceopd.families.lora_files import read_lora
from danceopd.families.registry import conventions_of


def load_export(checkpoint: ModelCheckpoint, folder: Path, format: str, dtype: torch.dtype) -> nn.Module:
    """The checkpoint's transformer with the export in it, loaded by the library that the format is for."""
    if format == "diffusers":
        names = [name for name, kind in checkpoint.index.items() if isinstance(kind, list)]
        pipe = checkpoint.pipeline(dtype, without=tuple(name for name in names if name not in _NEEDED))
        pipe.load_lora_weights(folder)
        return cast(nn.Module, pipe.transformer)
    model = checkpoint.transformer(dtype)
    if format == "peft":
        from peft import PeftModel

        # By default PEFT turns a bf16 adapter into fp32: finer than the student, and rounded elsewhere.
        peft_model: Any = PeftModel.from_pretrained(model, folder, autocast_adapter_dtype=False)
        return cast(nn.Module, peft_model.base_model.model)
    if format == "comfyui":
        (file,) = folder.glob("comfyui_*.safetensors")
        lora = read_lora(checkpoint.pipeline_class, linear_layers(model), str(file))
        load_adapter(model, "export", lora)
    return model


_NEEDED = ("transformer", "scheduler", "vae")


@torch.no_grad()
def main(question: str, answer: str) -> None:
    """Read the question's inputs, write the velocity."""
    with safe_open(question, framework="pt") as file:
        about = file.metadata()
        inputs = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    checkpoint, device, dtype = (
        ModelCheckpoint(about["checkpoint"]),
        about["device"],
        getattr(torch, about["dtype"]),
    )
    model = load_export(checkpoint, Path(about["export"]), about["format"], dtype)
    nn.Module.to(model.eval(), device)
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in inputs.items():
        part, _, key = name.partition(".")
        parts.setdefault(part, {})[key] = tensor.to(device)
    sources = tuple(parts[f"source{number}"] for number in range(len(parts) - 3))
    row = PromptRow(parts["prompt"], {}, sources)
    velocity = conventions_of(checkpoint).velocity(
        model,
        parts["sample"][""].to(dtype),
        parts["sigma"][""],
        [row],
        float(about["guidance"]) if about["guidance"] else None,
    )
    save_file({"velocity": velocity.float().cpu().contiguous()}, answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
