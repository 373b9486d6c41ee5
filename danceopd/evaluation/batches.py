"""Which images are made together: a function of the benchmark and the size of a batch alone.

A network's rounding depends on the batch that a sample is in. Batches that depend neither on how many
processes share the work nor on what a killed run has left over give every image the same bits in every run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from danceopd.data import DataError, content_key, image_size, load_image
from danceopd.evaluation.base import Benchmark, Case
from danceopd.families.base import Example, Family

Share = tuple[int, int]
"""Number of a process, from 0, and how many there are."""


@dataclass(frozen=True)
class Batch:
    """Images that are made together.

    Attributes:
        shape: of each one's latent.
        images: the cases and the numbers of their images; those of one case are neighbours.
    """

    shape: tuple[int, ...]
    images: tuple[tuple[Case, int], ...]


def plan_batches(
    benchmark: Benchmark, family: Family, batch_size: int
) -> tuple[list[Batch], Mapping[str, str]]:
    """All images of a benchmark in batches of one shape each, and why cases, by their keys, have none.

    Of source images only the sizes are read.

    Raises:
        ValueError: the family can make no image of the benchmark, for the reason of its first case.
    """
    by_shape: dict[tuple[int, ...], list[tuple[Case, int]]] = {}
    problems: dict[str, str] = {}
    first: ValueError | None = None
    for case in benchmark.cases():
        try:
            sizes = [image_size(path, f"a source of '{case.key}'") for path in case.sources]
            stand_ins = tuple(torch.zeros((), dtype=torch.uint8).expand(3, *size) for size in sizes)
            shape = tuple(family.shape(Example(case.prompt, stand_ins, size=case.size)))
        except ValueError as error:
            first = first or error
            problems[case.key] = str(error)
            continue
        by_shape.setdefault(shape, []).extend((case, n) for n in range(benchmark.images_per_case))
    if first is not None and not by_shape:
        raise first
    batches = [
        Batch(shape, tuple(images[start : start + batch_size]))
        for shape, images in by_shape.items()
        for start in range(0, len(images), batch_size)
    ]
    return batches, problems


def readable(batch: Batch) -> Iterator[tuple[Case, Example | DataError]]:
    """Each case of a batch as an example, or why it cannot be one."""
    for case in dict((case.key, case) for case, _ in batch.images).values():
        try:
            yield case, Example(case.prompt, tuple(_sources(case)), size=case.size)
        except DataError as error:
            yield case, error


def _sources(case: Case) -> Iterator[Tensor]:
    for path in case.sources:
        yield load_image(path, Path(), f"a source of '{case.key}'").pixels


def noise_seed(seed: int, key: str, number: int) -> int:
    """In [0, 2**64), for image `number` of the case `key`."""
    return int(content_key("noise", seed, key, number)[:16], 16)


def share_of_environment(environment: Mapping[str, Any] = os.environ) -> Share:
    """The share of a process that torchrun or ``accelerate launch`` has started; (0, 1) of another one.

    Raises:
        ValueError: RANK or WORLD_SIZE is no number.
    """
    texts = environment.get("RANK", "0"), environment.get("WORLD_SIZE", "1")
    try:
        rank, size = map(int, texts)
    except ValueError:
        raise ValueError(
            f"RANK={texts[0]} and WORLD_SIZE={texts[1]} in the environment must be whole numbers: unset "
            "them, or start with torchrun."
        ) from None
    return rank, size
