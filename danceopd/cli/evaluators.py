"""``--hand-over`` and ``--results`` of ``danceopd eval``: the evaluators of others, without a script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from danceopd.evaluation import AnyContender, Benchmark, Contender, Measured, Report
    from danceopd.evaluation.evaluators import Evaluator


def evaluator_to_hand_over_to(name: str, benchmark: Benchmark) -> Evaluator:
    """The evaluator that ``--hand-over`` names.

    Raises:
        ValueError: there is none, or it cannot score this benchmark.
    """
    from danceopd.evaluation.evaluators import EVALUATORS
    from danceopd.settings import nearest

    if name not in EVALUATORS:
        raise ValueError(f"--hand-over {name} is unknown: {nearest(name, EVALUATORS)}")
    evaluator = EVALUATORS[name]
    if evaluator.benchmark != benchmark.name:
        raise ValueError(
            f"--hand-over {name} is for the benchmark {evaluator.benchmark}, but the benchmark is "
            f"{benchmark.name}: drop it."
        )
    keys = [case.about["key"] for case in benchmark.cases() if "key" in case.about]
    if len(set(keys)) < len(keys):
        raise ValueError(
            f"--hand-over {name} takes one language at a time, but the benchmark was opened in both: give "
            "--option language=en or --option language=cn."
        )
    return evaluator


def hand_over_all(
    evaluator: Evaluator, benchmark: Benchmark, contenders: Sequence[AnyContender], out: Path
) -> None:
    """Write what the evaluator needs of every contender that was drawn here, and say where it lies."""
    from danceopd.evaluation import Contender
    from danceopd.evaluation.evaluators import hand_over

    for contender in contenders:
        if isinstance(contender, Contender):
            handed = hand_over(evaluator, benchmark, contender, out)
            typer.echo(f"{contender.name}: {handed.path}")
            if handed.missing:
                typer.echo(
                    f"danceopd: {handed.missing} images of {contender.name} are not there and are not handed "
                    "over",
                    err=True,
                )
    typer.echo(f"danceopd: {evaluator.step}, and read its results by --results NAME=PATH", err=True)


class Results:
    """What ``--results NAME=PATH``, given for some contenders, says of their images.

    Args:
        texts: the options.
        benchmark: what was drawn.
        contenders: who is evaluated.
        out: folder of the evaluation.

    Raises:
        ValueError: an option cannot be read, or holds nothing about these images.
        OSError: a file cannot be read.
    """

    def __init__(
        self, texts: Sequence[str], benchmark: Benchmark, contenders: Sequence[AnyContender], out: Path
    ) -> None:
        from danceopd.evaluation import Contender
        from danceopd.evaluation.evaluators import EVALUATORS, read_results

        known = {one.benchmark: one for one in EVALUATORS.values()}
        if benchmark.name not in known:
            titles = " and ".join(f"{one.benchmark} ({one.title})" for one in known.values())
            raise ValueError(
                f"--results {texts[0]} is for {titles}, but the benchmark is {benchmark.name}: drop it."
            )
        self._evaluator, self._benchmark, self._out = known[benchmark.name], benchmark, out
        _check_drawn(texts[0], benchmark, out)
        self._drawn = {contender.name for contender in contenders if isinstance(contender, Contender)}
        self._rows: dict[str, tuple[Contender, list[Measured]]] = {}
        for text in texts:
            name, path = _split(text, self._evaluator)
            contender = _named(name, text, contenders)
            if name in self._rows:
                raise ValueError(f"--results {text} is the second for '{name}': give one path for each.")
            try:
                rows = read_results(self._evaluator, benchmark, contender, out, path)
            except ValueError as error:
                raise ValueError(f"--results {text}: {error}") from None
            self._rows[name] = contender, rows

    def tell(self) -> None:
        """Say how much they have."""
        for name, (_, rows) in self._rows.items():
            images = {(row.case, row.number) for row in rows}
            lacking = {(row.case, row.number) for row in rows if row.value is None}
            typer.echo(
                f"{name}: {self._evaluator.title} has numbers about {len(images) - len(lacking)} of "
                f"{len(images)} images",
                err=True,
            )

    def add(self) -> None:
        """Add them to the evaluation, whose next report has them."""
        from danceopd.evaluation import add_measured
        from danceopd.evaluation.contenders import Part
        from danceopd.evaluation.generate import IMAGES
        from danceopd.evaluation.measure import digests_of

        for contender, rows in self._rows.values():
            part = Part(self._benchmark, contender.only)
            images = digests_of(part, self._out / contender.folder / IMAGES)
            add_measured(self._out, contender.folder, rows, self._evaluator.measures, images=images)

    def tell_lacking(self, report: Report) -> None:
        """Say who has no numbers of this evaluator, and so is not compared by them."""
        names = {info.name for info in self._evaluator.measures}
        scored = {score.contender for score in report.scores if score.metric in names}
        for name in report.contenders:
            if name not in scored:
                where = "" if name in self._drawn else " to the command that evaluated it"
                typer.echo(
                    f"danceopd: {self._evaluator.title} says nothing of {name}: give its results too{where}, "
                    f"by --results {name if name in self._drawn else 'student'}=PATH",
                    err=True,
                )


def _split(text: str, evaluator: Evaluator) -> tuple[str, Path]:
    name, equals, place = text.partition("=")
    if not (name and equals and place):
        raise ValueError(f"--results '{text}' must be NAME=PATH, where PATH is {evaluator.results}.")
    path = Path(place).expanduser()
    # EvalScope writes a folder, GenEval's evaluator a file.
    if not (path.is_dir() if evaluator.write is not None else path.is_file()):
        fault = "not there" if not path.exists() else "a file" if path.is_file() else "a folder"
        raise ValueError(f"--results {text}: '{path}' is {fault}; name {evaluator.results}.")
    return name, path


def _named(name: str, text: str, contenders: Sequence[AnyContender]) -> Contender:
    from danceopd.evaluation import Contender
    from danceopd.settings import nearest

    known: Mapping[str, AnyContender] = {contender.name: contender for contender in contenders}
    if name not in known:
        raise ValueError(f"--results {text}: '{name}' is not evaluated: {nearest(name, known)}")
    found = known[name]
    if not isinstance(found, Contender):
        raise ValueError(
            f"--results {text}: '{name}' was evaluated before, in '{found.path}': read its results there, by "
            "the command that evaluated it."
        )
    return found


def _check_drawn(text: str, benchmark: Benchmark, out: Path) -> None:
    from danceopd.evaluation.record import RECORD, read_record

    if not (out / RECORD).is_file():
        raise ValueError(
            f"--results {text}: nothing is evaluated in '{out}' yet: run the same command without --results "
            "first, or name its folder by --out."
        )
    record = read_record(out)
    if (record.benchmark, record.fingerprint) != (benchmark.name, benchmark.fingerprint()):
        raise ValueError(
            f"--results {text}: '{out}' holds an evaluation of another benchmark or copy: name another "
            "folder by --out."
        )
