"""What a benchmark, a metric and a judge are, and what they say about an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol

Capability = Literal["t2i", "edit"]


@dataclass(frozen=True)
class Case:
    """One task of a benchmark.

    Attributes:
        key: names it within its benchmark, in letters, digits, '-', '_' and '.'.
        category: the row of the report that it counts to.
        capability: whether an image is made or edited.
        prompt: the caption, or the instruction of the edit.
        sources: images to edit, in the user's copy.
        mask: image of the region to edit, white where it may change; None where the benchmark has none.
        target: what the benchmark shows as a right answer; None where it has none.
        size: height and width to make; the family's choice when None.
        about: what else the benchmark says, for metrics and judges: captions before and after the edit, the
            objects to find, ...
    """

    key: str
    category: str
    capability: Capability
    prompt: str
    sources: tuple[Path, ...] = ()
    mask: Path | None = None
    target: Path | None = None
    size: tuple[int, int] | None = None
    about: Mapping[str, Any] = field(default_factory=dict)


class Benchmark(Protocol):
    """A user's copy of a benchmark, checked, and the layout of images that its public evaluator reads."""

    @property
    def name(self) -> str:
        """What the command line calls it."""
        ...

    @property
    def images_per_case(self) -> int:
        """How many images of each case its evaluator wants, from different noises."""
        ...

    def cases(self) -> Sequence[Case]:
        """All tasks, in the benchmark's order."""
        ...

    def image_path(self, case: Case, number: int) -> PurePosixPath:
        """Where the evaluator looks for image `number` of a case, within a folder of its own."""
        ...

    def metadata(self) -> Mapping[PurePosixPath, bytes]:
        """Other files that the evaluator looks for, within the same folder."""
        ...

    def fingerprint(self) -> str:
        """Changes when a task, a source image or the layout does."""
        ...


@dataclass(frozen=True)
class Measured:
    """One number about one image, or the reason why there is none.

    Attributes:
        case: key of the case.
        category: of the case.
        capability: of the case.
        number: of the image, from 0.
        metric: what was measured.
        value: the number; None where there is a problem.
        problem: one sentence; None where there is a number.
    """

    case: str
    category: str
    capability: Capability
    number: int
    metric: str
    value: float | None
    problem: str | None = None


@dataclass(frozen=True)
class MetricInfo:
    """How a metric is read.

    Attributes:
        name: as `Measured.metric` has it.
        higher_is_better: None where neither is, as for diversity.
        title: a few words for tables.
        independent: whether each case's number hangs on that case alone; where it hangs on others too, as a
            distance between cases does, cases cannot be drawn anew for an interval.
    """

    name: str
    higher_is_better: bool | None
    title: str
    independent: bool = True


class Metric(Protocol):
    """Measures images on this machine."""

    @property
    def measures(self) -> Sequence[MetricInfo]:
        """The numbers it gives."""
        ...

    def applies(self, case: Case) -> bool:
        """Whether it has something to say about images of a case."""
        ...

    def measure(self, case: Case, image: Path) -> Mapping[str, float]:
        """Numbers by name, all of `measures`.

        Raises:
            ValueError: in one sentence, why there are none; it is counted and reported.
        """
        ...


class Judge(Protocol):
    """Scores images by asking a model that sees them."""

    @property
    def name(self) -> str:
        """Names the judge in reports, with its model."""
        ...

    @property
    def measures(self) -> Sequence[MetricInfo]:
        """The numbers it gives."""
        ...

    @property
    def by(self) -> str:
        """What its numbers hang on beside `name`, such as a hash of its rubric; "" for nothing.

        Numbers that were stored by something else are asked for anew.
        """
        return ""

    def applies(self, case: Case) -> bool:
        """Whether it has something to say about images of a case."""
        ...

    def judge(self, case: Case, image: Path) -> Mapping[str, float]:
        """Numbers by name, all of `measures`; an image that was judged before is not paid for again.

        Raises:
            JudgeError: the answer was refused or is of no use; it is counted and reported.
        """
        ...


class JudgeError(ValueError):
    """A judge gave no scores for an image; one sentence says why."""
