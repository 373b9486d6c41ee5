"""The fused schedulers in a plain diffusers pipeline: the same steps in one kernel, and second order.

    python examples/fused_schedulers.py path/to/stable-diffusion-3.5-medium --prompt "a fox" --device cuda

Any pipeline that samples with `FlowMatchEulerDiscreteScheduler` does: SD3, FLUX, Qwen-Image, Z-Image.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline

from danceopd.schedulers import FusedFlowMatchAB2Scheduler, FusedFlowMatchEulerScheduler


def main(arguments: Sequence[str] | None = None) -> None:
    """An image by each scheduler, from one noise, and how far apart they are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkpoint", help="folder or Hub repository")
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--steps", type=int, default=28, help="Euler steps; second order takes half of them")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--out", type=Path, default=Path("schedulers"))
    args = parser.parse_args(arguments)

    pipe = DiffusionPipeline.from_pretrained(args.checkpoint, dtype=getattr(torch, args.dtype))
    pipe.to(args.device)
    stock = pipe.scheduler
    args.out.mkdir(parents=True, exist_ok=True)
    images = {}
    for name, scheduler, steps in (
        ("stock", stock, args.steps),
        ("fused", FusedFlowMatchEulerScheduler.from_config(stock.config), args.steps),
        ("second-order", FusedFlowMatchAB2Scheduler.from_config(stock.config), max(1, args.steps // 2)),
    ):
        pipe.scheduler = scheduler
        image = pipe(
            args.prompt,
            num_inference_steps=steps,
            height=args.size,
            width=args.size,
            generator=torch.Generator().manual_seed(0),
        ).images[0]
        image.save(args.out / f"{name}.png")
        images[name] = np.asarray(image, dtype=np.float32)
        apart = np.abs(images[name] - images["stock"]).mean()
        print(f"{name:14}{steps:4} steps, {apart:6.2f} of 255 from the stock image")


if __name__ == "__main__":
    main()
