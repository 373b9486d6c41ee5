"""What a judge is asked and how its scores are put together: a file that users can edit."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import Field

from danceopd.evaluation.base import Case
from danceopd.settings import ConfigError, Integer, Text, settings

_SHIPPED: Final = Path(__file__).parent / "rubrics"
_PLACE: Final = "{instruction}"
_SHOWN: Final = {"source": "the image before the edit", "edited": "the image after the edit"}
_COMBINE: Final[Mapping[str, Callable[[Sequence[float]], float]]] = {
    "minimum": min,
    "mean": fmean,
    "geometric mean": lambda values: math.prod(values) ** (1 / len(values)),
}


@settings
class Question:
    """One request to the judge.

    Attributes:
        name: in the cache and in errors.
        shows: the images it sees, in this order.
        text: what it is asked; ``{instruction}`` stands for the edit that was asked for.
        scores: what it answers, a name and its meaning each.
        categories: the kinds of edit that are asked about so; every kind where there are none.
    """

    name: Text
    shows: Annotated[tuple[Literal["source", "edited"], ...], Field(min_length=1)]
    text: Text
    scores: Annotated[dict[Text, Text], Field(min_length=1)]
    categories: tuple[Text, ...] = ()


@settings
class Combination:
    """A number for the report.

    Attributes:
        name: of the number.
        title: for tables.
        combine: how.
        of: scores, or numbers that stand above this one.
    """

    name: Text
    title: Text
    combine: Literal["minimum", "mean", "geometric mean"]
    of: Annotated[tuple[Text, ...], Field(min_length=1)]


@settings
class Rubric:
    """Questions about an edited image, and the numbers that their scores make.

    Attributes:
        name: in reports.
        scale: least and greatest score.
        preamble: stands before each question.
        questions: all that an image may be asked about.
        measures: numbers for the report.

    Raises:
        ConfigError: a measure is made of what is nowhere scored.
    """

    name: Text
    scale: tuple[Integer, Integer]
    preamble: Text
    questions: Annotated[tuple[Question, ...], Field(min_length=1)]
    measures: Annotated[tuple[Combination, ...], Field(min_length=1)]

    def __post_init__(self) -> None:
        least, greatest = self.scale
        if not 0 <= least < greatest:
            raise ConfigError(f"scale must rise from 0 or more but is {least} to {greatest}: turn it round.")
        kinds = {kind for question in self.questions for kind in question.categories}
        for kind in kinds or {""}:
            asked = self._about(kind)
            names = [score for question in asked for score in question.scores]
            if len(set(names)) < len(names):
                raise ConfigError("a score is asked for twice about the same kind of edit: name both apart.")
            for measure in self.measures:
                for part in measure.of:
                    if part not in names:
                        where = f" about '{kind}'" if kind else ""
                        raise ConfigError(
                            f"measure '{measure.name}' is made of '{part}', which no question{where} scores: "
                            "name a score, or a measure above it."
                        )
                names.append(measure.name)

    def questions_about(self, case: Case) -> tuple[Question, ...]:
        """What an image of the case is asked about; nothing where the rubric does not know such edits."""
        if case.capability != "edit" or not case.sources:
            return ()
        asked = self._about(str(case.about.get("edit_type", case.category)))
        known = {score for question in asked for score in question.scores}
        for measure in self.measures:
            if not known.issuperset(measure.of):
                return ()
            known.add(measure.name)
        return asked

    def prompt(self, question: Question, instruction: str) -> str:
        """The text of a request."""
        images = [f"Image {number}: {_SHOWN[shown]}." for number, shown in enumerate(question.shows, start=1)]
        least, greatest = self.scale
        scores = [
            f"- {name} (whole number from {least} to {greatest}): {meaning.strip()}"
            for name, meaning in question.scores.items()
        ]
        example = json.dumps({"reasoning": "...", "scores": dict.fromkeys(question.scores, "...")})
        closing = (
            f"Answer with one JSON object and nothing else, of the form {example}, with a whole number in "
            "the place of each score and at most 40 words of reasoning."
        )
        parts = [self.preamble.strip(), "\n".join(images), question.text.strip()]
        text = "\n\n".join([*parts, "Scores:\n" + "\n".join(scores), closing])
        return text.replace(_PLACE, instruction)

    def read(self, question: Question, text: str) -> dict[str, float]:
        """The scores in an answer.

        Raises:
            ValueError: what is wrong with it, in a clause that the judge can be told.
        """
        answer = _object_in(text)
        scores = answer.get("scores", answer)
        if not isinstance(scores, dict):
            raise ValueError("'scores' is not a JSON object")
        least, greatest = self.scale
        values: dict[str, float] = {}
        for name in question.scores:
            if name not in scores:
                raise ValueError(f"the score '{name}' is missing")
            value = scores[name]
            if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
                raise ValueError(f"the score '{name}' is {json.dumps(value)[:40]} and no whole number")
            if not least <= value <= greatest:
                raise ValueError(f"the score '{name}' is {value} and not from {least} to {greatest}")
            values[name] = float(value)
        return values

    def combine(self, scores: Mapping[str, float]) -> dict[str, float]:
        """All measures, of the scores of all questions."""
        values = dict(scores)
        for measure in self.measures:
            values[measure.name] = float(_COMBINE[measure.combine]([values[part] for part in measure.of]))
        return {measure.name: values[measure.name] for measure in self.measures}

    def _about(self, kind: str) -> tuple[Question, ...]:
        return tuple(
            question for question in self.questions if not question.categories or kind in question.categories
        )


def load_rubric(rubric: str | Path) -> Rubric:
    """A rubric that is shipped, by its name (`gedit`, `imgedit`, `imgedit-uge`), or one in a YAML file.

    Raises:
        ValueError: there is no such rubric, or the file does not hold one.
        OSError: the file cannot be read.
    """
    files = sorted(_SHIPPED.glob("*.yaml"), key=lambda path: path.stem)
    shipped = {path.stem: path for path in files}
    path = shipped.get(str(rubric), Path(rubric))
    if not path.is_file():
        raise ValueError(
            f"rubric '{rubric}' is not there: name one of {', '.join(shipped)}, or a file of your own."
        )
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"rubric '{path}' is not YAML ({reason}): mend it.") from None
    if not isinstance(given, dict):
        raise ValueError(f"rubric '{path}' is not a mapping: start from a shipped one.")
    try:
        return Rubric(**{str(name): value for name, value in given.items()})
    except ConfigError as error:
        raise ConfigError(f"rubric '{path}': {error}") from None


def _object_in(text: str) -> dict[str, Any]:
    """The first JSON object in a text; models like to fence it or to talk around it."""
    decoder = json.JSONDecoder()
    start = text.find("{")
    while start >= 0:
        try:
            found, _ = decoder.raw_decode(text, start)
        except (json.JSONDecodeError, RecursionError):
            found = None
        if isinstance(found, dict):
            return found
        start = text.find("{", start + 1)
    raise ValueError("it has no JSON object")
