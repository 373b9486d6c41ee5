"""Images from a velocity field."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from danceopd.families.base import Example, Family
from danceopd.flow import VelocityField, draw_noise, rollout


@torch.no_grad()
def sample(
    family: Family,
    field: VelocityField,
    prompts: Sequence[str],
    *,
    sources: Sequence[Tensor | Sequence[Tensor] | None] | Tensor | None = None,
    size: tuple[int, int] | None = None,
    num_steps: int = 16,
    guidance_scale: float = 1.0,
    seed: int = 0,
    batch_size: int = 64,
) -> Tensor:
    """Images for `prompts`, by Euler steps along the family's grid.

    Args:
        family: turns prompts into conditions and latents into images.
        field: what to follow, a teacher or a student's field.
        prompts: B captions or instructions.
        sources: B images to edit, uint8 [3, H, W] each (or several where the family takes several), or
            None for text-to-image (all, or single entries).
        size: height and width of the images in pixels; the family's choice when None.
        num_steps: at least 1.
        guidance_scale: classifier-free guidance on top of `field`; 1 for none.
        seed: 0 or above; the noise of image b depends on (seed, b) alone, not on the batch size.
        batch_size: samples per forward.

    Returns:
        uint8 [B, 3, H, W] on the CPU.

    Raises:
        ValueError: in one sentence, for prompts, sources or a size that do not fit together or the family.
    """
    if not prompts or isinstance(prompts, str):
        raise ValueError(
            f"prompts must be a list of at least one, but got {prompts!r}; wrap a single prompt in a list."
        )
    sources = [None] * len(prompts) if sources is None else list(sources)
    if len(sources) != len(prompts):
        raise ValueError(
            f"sources must hold one image per prompt, but got {len(sources)} for {len(prompts)} prompts; "
            "use None where there is none."
        )
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, but got {batch_size}; the default is 64.")
    field = family.guided(field, guidance_scale)
    examples = [
        Example(prompt, _as_tuple(source), size=size) for prompt, source in zip(prompts, sources, strict=True)
    ]
    shape, *others = dict.fromkeys(map(family.shape, examples))
    if others:
        raise ValueError(
            f"sources ask for images of different sizes (latents of {shape} and {others[0]}): give "
            "one size for all, or sample them apart."
        )
    grid = family.grid(num_steps, shape)
    images = []
    for start in range(0, len(examples), batch_size):
        chunk = examples[start : start + batch_size]
        seeds = [_noise_seed(seed, start + b) for b in range(len(chunk))]
        noise = draw_noise(seeds, shape).to(family.device)
        images.append(family.decode(rollout(field, noise, grid, family.encode(chunk)).sample).cpu())
    return torch.cat(images)


def _as_tuple(source: Tensor | Sequence[Tensor] | None) -> tuple[Tensor, ...]:
    if source is None:
        return ()
    return (source,) if isinstance(source, Tensor) else tuple(source)


def _noise_seed(seed: int, b: int) -> int:
    return int(np.random.SeedSequence([seed, b]).generate_state(1, np.uint64)[0]) >> 1
