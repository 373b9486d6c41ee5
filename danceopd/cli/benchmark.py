"""``danceopd eval --benchmark``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import typer

from danceopd.cli.evaluators import Results, evaluator_to_hand_over_to, hand_over_all
from danceopd.cli.useless import check_metrics
from danceopd.signals import stopping_at_once

if TYPE_CHECKING:
    from danceopd.evaluation import AnyContender, Benchmark
    from danceopd.evaluation.judges import Estimate, Rubric, VisionJudge

OF_SHAPESWORLD: Final = 8
OF_OTHERS: Final = 28
"""Euler steps where none are asked for."""

_STOPPED: Final = "the evaluation was stopped; the same command continues where it was."


class Asked(NamedTuple):
    """The options of ``danceopd eval --benchmark``, as the command line has them."""

    name: str
    run: str
    data: Path | None
    options: Sequence[str]
    against: Sequence[str]
    out: Path | None
    metrics: Sequence[str]
    clip: Path | None
    dino: Path | None
    lpips: Path | None
    judge: str | None
    judge_model: str | None
    judge_key_env: str
    judge_rubric: str | None
    judge_cache: Path | None
    judge_prices: str | None
    judge_rpm: float | None
    concurrency: int
    hand_over: str | None
    results: Sequence[str]
    steps: int | None
    guidance_scale: float
    seed: int
    batch_size: int
    margin: float
    device: str | None


def evaluate_on(asked: Asked, *, dry_run: bool) -> None:
    """Evaluate a run on a benchmark, or say what that would take."""
    from danceopd.evaluation import Contender, contenders_of_run, evaluate_benchmark
    from danceopd.evaluation.batches import share_of_environment
    from danceopd.evaluation.benchmarks import known_benchmark
    from danceopd.evaluation.choice import choose_metrics

    known_benchmark(asked.name)  # before anything is said of its copy, or a run is read
    if (asked.judge is None) != (asked.judge_model is None):
        raise ValueError("a judge needs both an address and a model: give --judge and --judge-model.")
    out = asked.out or Path(asked.run) / "eval" / asked.name
    metrics = _listed(asked.metrics)
    with stopping_at_once(_STOPPED), TemporaryDirectory() as scratch:
        contenders = contenders_of_run(asked.run, _listed(asked.against), device=asked.device)
        benchmark = _open(asked, out, Path(scratch) if dry_run else None)
        weights = {"clip": asked.clip, "dino": asked.dino, "lpips": asked.lpips}
        check_metrics(metrics, [name for name, folder in weights.items() if folder], benchmark)
        evaluator = asked.hand_over and evaluator_to_hand_over_to(asked.hand_over, benchmark)
        first = share_of_environment()[0] == 0  # who alone measures and reports
        results = Results(asked.results, benchmark, contenders, out) if asked.results and first else None
        judge = _judge(asked, out, dry_run) if asked.judge else None
        if judge is not None and not any(map(judge.applies, benchmark.cases())):
            raise ValueError(
                f"--judge is of no use: rubric '{_rubric_of(asked).name}' asks about nothing that "
                f"benchmark '{asked.name}' has; drop it, or give --judge-rubric."
            )
        if dry_run:
            _tell_size(benchmark)
            _tell(benchmark, contenders, out, judge)
            if results is not None:
                results.tell()
            return
        student = contenders[0]
        assert isinstance(student, Contender)
        device = asked.device or str(student.family.device)
        chosen = choose_metrics(
            metrics or None, clip=asked.clip, dino=asked.dino, lpips=asked.lpips, device=device
        )
        _tell_size(benchmark)
        if results is not None:
            results.tell()
            results.add()
        report = evaluate_benchmark(
            benchmark,
            contenders,
            out,
            metrics=chosen.metrics,
            judges=[judge] if judge else [],
            diversity=chosen.diversity,
            measured_by=chosen.by,
            seed=asked.seed,
            num_steps=asked.steps or (OF_SHAPESWORLD if asked.name == "shapesworld" else OF_OTHERS),
            guidance_scale=asked.guidance_scale,
            batch_size=asked.batch_size,
            margin=asked.margin,
            concurrency=asked.concurrency,
        )
        if report is None:
            return  # another process tells
        if evaluator:
            hand_over_all(evaluator, benchmark, contenders, out)
    if judge is not None:
        spent = judge.spent()
        cost = "" if spent.cost is None else f", {spent.cost:.2f}"
        typer.echo(
            f"judge: {spent.answers} answers paid for ({spent.usage.prompt_tokens} + "
            f"{spent.usage.completion_tokens} tokens{cost}), {spent.remembered} from the cache",
            err=True,
        )
    if results is not None:
        results.tell_lacking(report)
    if report.lacking:
        each = ", ".join(f"{name} {images}" for name, images in report.lacking.items())
        images = sum(report.lacking.values())
        typer.echo(
            f"danceopd: {images} {'image lacks' if images == 1 else 'images lack'} a number ({each}); the "
            "report says which and why",
            err=True,
        )
    typer.echo(out / "report" / "report.html")


def _open(asked: Asked, out: Path, scratch: Path | None) -> Benchmark:
    """The benchmark; with the tasks of ShapesWorld drawn into `scratch`, where there is one."""
    from danceopd.evaluation import open_benchmark

    options: dict[str, Any] = {}
    for text in asked.options:
        key, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--option '{text}' must be KEY=VALUE, such as language=cn.")
        options[key] = value
    data = asked.data
    if data is None:
        if asked.name != "shapesworld":
            raise ValueError(
                f"--data is missing: give the folder of your copy of {asked.name}; docs/evaluation.md says "
                "where to get one."
            )
        data = out / "tasks"
    if scratch is not None and asked.name == "shapesworld":
        options["unpack_to"] = scratch
    return open_benchmark(asked.name, data, **options)


def _judge(asked: Asked, out: Path, dry_run: bool) -> VisionJudge:
    from danceopd.evaluation.judges import AnswerCache, Prices, VisionClient, VisionJudge

    assert asked.judge is not None and asked.judge_model is not None
    key = None if dry_run or not asked.judge_key_env else asked.judge_key_env  # nothing is sent in a dry run
    client = VisionClient(
        asked.judge, asked.judge_model, key_variable=key, requests_per_minute=asked.judge_rpm
    )
    cache = AnswerCache(asked.judge_cache or out.parent / "judge-cache")
    prices = None if asked.judge_prices is None else Prices(*_prices(asked.judge_prices))
    return VisionJudge(client, _rubric_of(asked), cache, prices=prices)


def _prices(text: str) -> tuple[float, float]:
    """Of a million tokens read, and of a million written."""
    try:
        prompt, completion = map(float, text.split(","))
    except ValueError:
        prompt = completion = math.nan
    if not (0.0 <= prompt < math.inf and 0.0 <= completion < math.inf):
        raise ValueError(f"--judge-prices '{text}' must be two numbers, such as 2,8.")
    return prompt, completion


def _tell_size(benchmark: Benchmark) -> None:
    """Say if the copy has not as many tasks as are published: a shortened file is whole as far as it goes."""
    from danceopd.evaluation.benchmarks import BenchmarkCopy

    count = len(benchmark.cases())
    if isinstance(benchmark, BenchmarkCopy) and benchmark.published not in (None, count):
        typer.echo(
            f"danceopd: this copy of {benchmark.name} has {count} tasks, where {benchmark.published} are "
            "published",
            err=True,
        )


def _rubric_of(asked: Asked) -> Rubric:
    """The asked one, or the benchmark's own."""
    from danceopd.evaluation.judges import load_rubric

    usual = "gedit"
    if asked.name == "imgedit":
        usual = "imgedit-uge" if "suite=uge" in asked.options else "imgedit"
    return load_rubric(asked.judge_rubric or usual)


def _tell(
    benchmark: Benchmark, contenders: Sequence[AnyContender], out: Path, judge: VisionJudge | None
) -> None:
    """What an evaluation would make and ask."""
    from danceopd.evaluation.contenders import FormerStudent, Part
    from danceopd.evaluation.measure import unjudged
    from danceopd.evaluation.run import images_of, missing
    from danceopd.evaluation.store import MEASURED

    estimates: list[Estimate] = []
    for contender in contenders:
        part, images = Part(benchmark, contender.only), images_of(contender, out)
        if isinstance(contender, FormerStudent):
            typer.echo(f"{contender.name}: evaluated before, in {contender.path}")
            continue
        count = len(part.cases()) * part.images_per_case
        typer.echo(f"{contender.name}: {missing(part, images)} of {count} images to make")
        if judge is not None:
            asked = unjudged(part, images, images.parent / MEASURED, judge)
            estimates.append(judge.estimate((case, path) for case, _, path in asked))
            remembered = estimates[-1].remembered
            typer.echo(f"{contender.name}: {_bill(estimates[-1:])}; {remembered} are in the cache")
    if len(estimates) > 1:
        typer.echo(f"together: {_bill(estimates)}")


def _bill(estimates: Sequence[Estimate]) -> str:
    answers = sum(of.answers for of in estimates)
    read = sum(of.usage.prompt_tokens for of in estimates)
    written = sum(of.usage.completion_tokens for of in estimates)
    costs = [of.cost for of in estimates if of.cost is not None]
    money = f", about {sum(costs):.2f}" if costs else ""
    return f"{answers} answers to pay for, about {read} + {written} tokens{money}"


def _listed(texts: Sequence[str]) -> list[str]:
    return [part for text in texts for part in text.split(",") if part]
