"""ShapesWorld as a benchmark: held-out tasks, and the exact scorer as a metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import torch

from danceopd.evaluation.base import Case, MetricInfo
from danceopd.evaluation.benchmarks.layout import UNPACKED, BenchmarkCopy, Unpacked, png
from danceopd.pictures import read_png

_WORLD = "shapesworld"


def open_shapesworld(
    folder: Path,
    *,
    grounds: Sequence[str] = ("t2i", "local", "global"),
    prompts: int = 48,
    split: str = "test",
    unpack_to: Path | None = None,
) -> BenchmarkCopy:
    """Held-out tasks of ShapesWorld; no copy is needed, their images are drawn into `folder`.

    A case's `about` has its ``ground``, ``split`` and ``row``. Images are called ``CATEGORY/ROW.png``.

    Args:
        folder: made when it is not there.
        grounds: of "t2i", "local", "global" and "edit", which is the two before it.
        prompts: tasks of each category.
        split: "test", or "validation" to choose settings on.
        unpack_to: folder for the images; one in `folder` when not given.

    Raises:
        ValueError: a ground or the split is unknown, or `prompts` is below 1.
        DataError: `folder` takes no files.
    """
    # Imported late: this world brings diffusers along, for which no other benchmark shall wait.
    from danceopd.shapesworld import as_example, held_out_tasks

    if isinstance(grounds, str):
        grounds = grounds.split(",")
    images = Unpacked(unpack_to or folder / UNPACKED)
    cases: dict[str, Case] = {}
    for ground in grounds:
        for category, tasks in held_out_tasks(ground, prompts, split).items():
            for row, task in enumerate(tasks):
                example = as_example(task)
                assert example.target is not None
                about = {"world": _WORLD, "ground": ground, "split": split, "row": row}
                key = f"{category}-{row:04d}"
                cases[key] = Case(
                    key,
                    category,
                    "t2i" if ground == "t2i" else "edit",
                    task.prompt,
                    tuple(images.put(png(source)) for source in example.sources),
                    None if example.mask is None else images.put(png(example.mask)),
                    images.put(png(example.target)),
                    about=about,
                )
    return BenchmarkCopy(_WORLD, tuple(cases.values()), _path, published=len(cases), digests=images.digests)


def _path(case: Case, number: int) -> PurePosixPath:
    return PurePosixPath(case.category, f"{case.about['row']:04d}.png")


class Fulfilled:
    """Whether an image does what a task of ShapesWorld asks for, exactly; implements `Metric`."""

    measures: Sequence[MetricInfo] = (MetricInfo("fulfilled", True, "tasks fulfilled"),)

    def applies(self, case: Case) -> bool:
        """Whether it is a task of this world."""
        return case.about.get("world") == _WORLD

    def measure(self, case: Case, image: Path) -> Mapping[str, float]:
        """1 or 0.

        Raises:
            ValueError: the image cannot be read, or is not one of this world.
        """
        from danceopd.shapesworld import TaskSet, score
        from danceopd.shapesworld.render import from_pixels

        task = TaskSet((case.category,), case.about["split"])[case.about["row"]]
        pixels = from_pixels(read_png(image))
        return {"fulfilled": float(score(torch.stack([pixels]), [task])[0])}
