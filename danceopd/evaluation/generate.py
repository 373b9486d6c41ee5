"""A model's images of a benchmark, where its evaluator looks for them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from danceopd.data import DataError
from danceopd.evaluation.base import Benchmark
from danceopd.evaluation.batches import Batch, Share, noise_seed, plan_batches, readable, share_of_environment
from danceopd.evaluation.identity import claim
from danceopd.evaluation.progress import track
from danceopd.families.base import Example, Family
from danceopd.files import write_shared, write_whole
from danceopd.flow import VelocityField, draw_noise, rollout, rows_not_finite, upload
from danceopd.pictures import write_pngs

IMAGES: Final = "images"
"""Folder within a contender's, laid out for the evaluator."""

PROBLEMS: Final = "problems"
"""Folder beside `IMAGES` with a text file for every case that has no images, saying why."""

_END: Final = b"\0\0\0\0IEND\xaeB`\x82"  # of every PNG file


@dataclass(frozen=True)
class Generated:
    """What `generate` has done.

    Attributes:
        images: the folder that the evaluator is given.
        made: images that this process has made.
        kept: images of its share that were there before.
        problems: why cases have no images, by their keys; those of all processes that have come to them.
    """

    images: Path
    made: int
    kept: int
    problems: Mapping[str, str]


@torch.no_grad()
def generate(
    benchmark: Benchmark,
    family: Family,
    field: VelocityField,
    out: Path,
    *,
    seed: int,
    num_steps: int,
    guidance_scale: float = 1.0,
    batch_size: int = 8,
    share: Share | None = None,
    progress: bool = True,
    identity: Mapping[str, Any] | None = None,
) -> Generated:
    """Make every image of a benchmark that is not there yet, by Euler steps along the family's grid.

    May be killed at any moment and called again: an image is whole or not there. An image depends on the
    seed, its case and number, the model, the steps and guidance; and, in the rounding of a network in batches
    of other sizes, on `batch_size`. It does not depend on the share, or on how often the work was
    interrupted: batches are always made whole.

    Writes ``images/`` in the layout of the benchmark's evaluator, ``generation.json`` and, where cases have
    no images, ``problems/KEY.txt``. A source image that cannot be read is such a case, and no error; so is
    one that the model leads to latents that are not finite.

    Args:
        benchmark: what to draw.
        family: of the model.
        field: what to follow, a teacher's or a student's field.
        out: folder of this model and benchmark; progress goes by its name.
        seed: 0 or above. Models that share it start from the same noise.
        num_steps: at least 1.
        guidance_scale: classifier-free guidance on top of `field`; 1 for none.
        batch_size: images per forward; one case's images are encoded once.
        share: number of this process and how many there are, which share `out`; of torchrun's or accelerate's
            environment when None. The first one writes the evaluator's other files, and shows progress.
        progress: whether to show it, on stderr.
        identity: what the model is, such as the hashes of its weights; values for JSON.

    Raises:
        ValueError: `out` holds images of something else, the family can make none of the benchmark's, or an
            argument is out of range.
        OSError: a file cannot be written.
    """
    rank, size = share_of_environment() if share is None else share
    _check(seed, num_steps, batch_size, rank, size)
    images = out / IMAGES
    about = {"seed": seed, "num_steps": num_steps, "guidance_scale": float(guidance_scale)}
    copy = {"benchmark": benchmark.name, "fingerprint": benchmark.fingerprint()}
    claim(out, {**copy, **about, "model": dict(identity or {})}, images)

    batches, problems = plan_batches(benchmark, family, batch_size)
    mine = batches[rank::size]
    if rank == 0:
        for key, problem in problems.items():
            _note(out, key, problem)
        _write_metadata(benchmark, images)
    paths = {
        (case.key, number): images / benchmark.image_path(case, number)
        for batch in mine
        for case, number in batch.images
    }
    missing = {image for image, path in paths.items() if not is_whole(path)}
    kept, made = len(paths) - len(missing), 0
    not_finite: set[str] = set()
    guided = family.guided(field, guidance_scale)
    with track(f"{out.name} images".strip(), len(paths), kept, shown=progress and rank == 0) as advance:
        for batch in mine:
            wanted = [image for image in _names(batch) if image in missing]
            if not wanted:
                continue
            drawn, spoilt = _draw(batch, family, guided, out, seed=seed, num_steps=num_steps)
            not_finite |= spoilt
            for image in wanted:
                if image in drawn and image[0] not in not_finite:
                    paths[image].parent.mkdir(parents=True, exist_ok=True)
                    write_pngs(drawn[image][None], paths[image], zoom=1)
                    _forget(out, image[0])
                    made += 1
            advance(len(wanted))
    return Generated(images, made, kept, problems_in(out))


def is_whole(path: Path) -> bool:
    """Whether a PNG file is there and has its end."""
    try:
        with path.open("rb") as file:
            file.seek(-len(_END), 2)
            return file.read() == _END
    except OSError:
        return False


def problems_in(out: Path) -> dict[str, str]:
    """Why cases have no images in a contender's folder, by their keys."""
    files = sorted((out / PROBLEMS).glob("*.txt"))
    return {path.stem: path.read_text(encoding="utf-8").strip() for path in files}


def _draw(
    batch: Batch, family: Family, field: VelocityField, out: Path, *, seed: int, num_steps: int
) -> tuple[dict[tuple[str, int], Tensor], set[str]]:
    """Images uint8 [3, H, W] by case and number, and the keys of cases whose latents are not finite.

    These are noted, as are those whose sources cannot be read.
    """
    examples: dict[str, Example] = {}
    for case, example in readable(batch):
        if isinstance(example, DataError):
            _note(out, case.key, str(example))
        else:
            examples[case.key] = example
    names = [image for image in _names(batch) if image[0] in examples]
    if not names:
        return {}, set()
    places = {key: place for place, key in enumerate(examples)}
    condition = family.encode(list(examples.values())).take(torch.tensor([places[key] for key, _ in names]))
    noise = draw_noise([noise_seed(seed, key, number) for key, number in names], batch.shape)
    grid = family.grid(num_steps, batch.shape)
    sample = rollout(field, upload(noise, family.device), grid, condition).sample
    spoilt = {names[row][0] for row in rows_not_finite(sample)}
    for key in spoilt:
        _note(out, key, f"the model led '{key}' to latents that are not finite: restore its weights.")
    return dict(zip(names, family.decode(sample).cpu(), strict=True)), spoilt


def _names(batch: Batch) -> list[tuple[str, int]]:
    return [(case.key, number) for case, number in batch.images]


def _write_metadata(benchmark: Benchmark, images: Path) -> None:
    files = benchmark.metadata()
    for name in files:
        path = images / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, files[name])


def _note(out: Path, key: str, problem: str) -> None:
    folder = out / PROBLEMS
    folder.mkdir(parents=True, exist_ok=True)
    write_shared(folder / f"{key}.txt", f"{problem}\n".encode())


def _forget(out: Path, key: str) -> None:
    with suppress(FileNotFoundError):
        (out / PROBLEMS / f"{key}.txt").unlink()


def _check(seed: int, num_steps: int, batch_size: int, rank: int, size: int) -> None:
    for name, value, least in (("seed", seed, 0), ("num_steps", num_steps, 1), ("batch_size", batch_size, 1)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, but got {value}.")
    if not 0 <= rank < size:
        raise ValueError(
            f"share must be (i, n) with i in 0 .. n - 1, but got ({rank}, {size}); (0, 1) is all of it."
        )
