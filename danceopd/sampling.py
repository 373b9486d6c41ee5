"""Images from a velocity field."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from danceopd.families.base import Example, Family
from danceopd.families.config import Teacher
from danceopd.flow import VelocityField, check_takes_samples, draw_noise, rollout, rows_not_finite
from danceopd.pictures import pixels_of, read_png

AnyImage = Tensor | Image.Image | str | Path
"""An image: uint8 [3, H, W], one of Pillow's, or a file."""


@torch.no_grad()
def sample(
    family: Family,
    field: VelocityField,
    prompts: Sequence[str],
    *,
    sources: Sequence[AnyImage | Sequence[AnyImage] | None] | Tensor | None = None,
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
        sources: B images to edit (or several each where the family takes several), or None for text-to-image
            (all, or single entries). An image is a tensor uint8 [3, H, W], one of Pillow's, or a file;
            transparency is laid on white.
        size: height and width of the images in pixels; the family's choice when None.
        num_steps: at least 1.
        guidance_scale: classifier-free guidance on top of `field`; 1 for none.
        seed: 0 or above; the noise of image b depends on (seed, b) alone, not on the batch size.
        batch_size: samples per forward.

    Returns:
        uint8 [B, 3, H, W] on the CPU.

    Raises:
        ValueError: in one sentence, for prompts, sources or a size that do not fit together or the family.
        TypeError: an argument is of another type.
        FloatingPointError: the field led to latents that are not finite.
        OSError: a source's file cannot be read.
    """
    _check(family, field, num_steps=num_steps, seed=seed, batch_size=batch_size)
    if not prompts or isinstance(prompts, str):
        raise ValueError(
            f"prompts must be a list of at least one, but got {prompts!r}; wrap a single prompt in a list."
        )
    one = isinstance(sources, Tensor) and sources.ndim == 3
    if one or isinstance(sources, (str, Path, Image.Image)):
        raise ValueError(
            f"sources must be a list of one image per prompt, but got {type(sources).__name__}; wrap it in "
            "a list."
        )
    sources = [None] * len(prompts) if sources is None else list(sources)
    if len(sources) != len(prompts):
        raise ValueError(
            f"sources must hold one image per prompt, but got {len(sources)} for {len(prompts)} prompts; "
            "use None where there is none."
        )
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
        latents = rollout(field, noise, grid, family.encode(chunk)).sample
        if spoilt := rows_not_finite(latents):
            raise FloatingPointError(
                f"field led {len(spoilt)} of {len(chunk)} samples to latents that are not finite (first: "
                f"{chunk[spoilt[0]].prompt!r}): restore its weights, or use the dtype that it was trained in."
            )
        images.append(family.decode(latents).cpu())
    return torch.cat(images)


def _check(family: Family, field: object, **numbers: int) -> None:
    if not callable(getattr(family, "guided", None)):
        raise TypeError(
            f"family must be a model family, but got {family!r:.60}; load one with danceopd.load_family(...)."
        )
    if isinstance(field, (str, Path)):
        raise TypeError(
            f"field must be a velocity field, but got {str(field)!r}; a run's is "
            f"danceopd.load_student({str(field)!r}).field, and family.teacher(...) gives an expert's."
        )
    if isinstance(field, Teacher):
        raise TypeError(
            f"field must be a velocity field, but got Teacher('{field.name}', ...); give what "
            "family.teacher(...) makes of it."
        )
    if not callable(field) and hasattr(field, "field"):  # what `load_student` gives, or a family's student
        raise TypeError(f"field must be a velocity field, but got {type(field).__name__}; give its .field.")
    check_takes_samples(field, "field")
    for name, value in numbers.items():
        least = 0 if name == "seed" else 1
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise TypeError(f"{name} must be a whole number, but got {value!r}; give one from {least} up.")
        if value < least:
            raise ValueError(f"{name} must be at least {least}, but got {value}; raise it.")


def _as_tuple(source: AnyImage | Sequence[AnyImage] | None) -> tuple[Tensor, ...]:
    if source is None:
        return ()
    several = source if isinstance(source, (list, tuple)) else (source,)
    return tuple(map(as_pixels, several))


def as_pixels(image: AnyImage) -> Tensor:
    """An image as uint8 [3, H, W], turned as its EXIF data says.

    Raises:
        ValueError: a file is no image, an image has 32-bit pixels, or a tensor has another shape.
        TypeError: it is nothing that an image is given as.
        OSError: a file cannot be read.
    """
    if isinstance(image, (str, Path)):
        return read_png(Path(image))
    if isinstance(image, Image.Image):
        return pixels_of(image)
    if not isinstance(image, Tensor):
        raise TypeError(
            f"an image must be a tensor uint8 [3, H, W], one of Pillow's, or a file, but got "
            f"{type(image).__name__}; convert it."
        )
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(
            f"an image must have shape [3, H, W], but got {list(image.shape)}; bring the colours to the "
            "front."
        )
    return image


def _noise_seed(seed: int, b: int) -> int:
    return int(np.random.SeedSequence([seed, b]).generate_state(1, np.uint64)[0]) >> 1
