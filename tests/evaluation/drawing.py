"""Images of ShapesWorld's tasks, drawn in this process or in one that can be killed."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from danceopd.evaluation import Benchmark, Generated, generate, open_benchmark
from danceopd.evaluation.benchmarks import BenchmarkCopy
from danceopd.families import Teacher, load_family

COUNT = 24
"""Images of `two_of_each`."""


def two_of_each(folder: Path) -> BenchmarkCopy:
    """Two images of each of ShapesWorld's twelve categories."""
    copy = open_benchmark("shapesworld", folder, prompts=1)
    assert isinstance(copy, BenchmarkCopy)
    return replace(
        copy, images_per_case=2, path=lambda case, number: copy.path(case, 0).with_name(f"{number}.png")
    )


@cache
def family() -> Any:
    return load_family("shapesworld")


def draw(benchmark: Benchmark, out: Path, **options: Any) -> Generated:
    field = family().teacher(Teacher("edit", checkpoint="edit"))
    settings: dict[str, Any] = {
        "seed": 3,
        "num_steps": 2,
        "batch_size": 5,
        "progress": False,
        "share": (0, 1),
    }
    return generate(benchmark, family(), options.pop("field", field), out, **settings | options)


def main() -> None:
    """Draw a share as torchrun has it, slowly."""
    torch.set_num_threads(1)
    field = family().teacher(Teacher("edit", checkpoint="edit"))

    def slow(*arguments: Any) -> torch.Tensor:
        time.sleep(0.2)
        return field(*arguments)

    draw(two_of_each(Path(sys.argv[1])), Path(sys.argv[2]), share=None, field=slow)


if __name__ == "__main__":
    main()
