"""A judge at an endpoint of a test, its waits, and images to judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from danceopd.evaluation import Case, Measured
from danceopd.evaluation.judges import AnswerCache, VisionClient, VisionJudge, load_rubric
from tests.evaluation.endpoint import Endpoint
from tests.evaluation.examples import edit, noise, save


class Bench:
    """Makes judges that never sleep, and keeps how long they wanted to."""

    def __init__(self, endpoint: Endpoint, folder: Path) -> None:
        self.endpoint, self.folder = endpoint, folder
        self.waits: list[float] = []

    def judge(self, rubric: str | Path = "gedit", **given: Any) -> VisionJudge:
        client = {"timeout": 20.0, "attempts": 4, "sleep": self.waits.append} | given.pop("client", {})
        return VisionJudge(
            VisionClient(self.endpoint.url, "seer", key_variable="JUDGE_KEY", **client),
            load_rubric(rubric),
            AnswerCache(self.folder / "cache"),
            **given,
        )

    def images(self, number: int) -> list[tuple[Case, int, Path]]:
        source = save(self.folder / "source.png", noise(0))
        return [
            (edit(str(index), source), 0, save(self.folder / f"{index}.png", noise(index + 1)))
            for index in range(number)
        ]

    def one(self) -> tuple[Case, Path]:
        ((case, _, image),) = self.images(1)
        return case, image

    def written(self) -> str:
        return "".join(path.read_text() for path in (self.folder / "cache").rglob("*.json"))


def values(rows: list[Measured]) -> dict[str, float | None]:
    return {row.metric: row.value for row in rows}
