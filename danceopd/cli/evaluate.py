"""``danceopd eval``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from danceopd.cli.benchmark import Asked, evaluate_on
from danceopd.cli.opening import open_model
from danceopd.cli.options import Device, Guidance, Seed
from danceopd.cli.useless import given_options, refuse

_WORLD = "shapesworld"
_MEASURES, _JUDGE, _OTHERS, _SHAPESWORLD = "Measures", "A judge", "Evaluators of others", "ShapesWorld"
_OF_BENCHMARKS = (
    *("data", "option", "run", "against", "metrics", "clip", "dino", "lpips", "judge", "judge_model"),
    *("judge_key_env", "judge_rubric", "judge_cache", "judge_prices", "judge_rpm", "judge_concurrency"),
    *("hand_over", "results", "dry_run", "batch_size", "margin"),
)
_OF_JUDGES = tuple(name for name in _OF_BENCHMARKS if name.startswith("judge_"))


def evaluate(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN|EXPERT",
            help="A run's folder (its newest checkpoint is read); without --benchmark also one of its "
            "checkpoints, full weights, an expert's name, or base.",
        ),
    ] = None,
    benchmark: Annotated[
        str | None,
        typer.Option(
            help="Benchmark to report on: geneval, gedit, imgedit, emuedit, editeval or shapesworld. Without "
            "it, exact scores on ShapesWorld are printed."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of your copy of the benchmark; shapesworld needs none.", show_default=False
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="Option of the benchmark, such as language=cn; may be repeated."
        ),
    ] = None,
    run: Annotated[
        str | None, typer.Option(help="The run to report on; the same as RUN.", show_default=False)
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="Whom to compare with, commas between: base, teachers of the run, folders of other runs or "
            "of former evaluations. NAME:PART compares on a capability (t2i, edit) or category alone, "
            "NAME:PART+PART on several."
        ),
    ] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=_MEASURES,
            help="What to measure, commas between: fulfilled, clip, dino, pixels, lpips, sharpness, "
            "diversity; all for which there are weights by default.",
        ),
    ] = None,
    clip: Annotated[
        Path | None, typer.Option(rich_help_panel=_MEASURES, help="Folder of a CLIP model.")
    ] = None,
    dino: Annotated[
        Path | None, typer.Option(rich_help_panel=_MEASURES, help="Folder of a DINO model.")
    ] = None,
    lpips: Annotated[
        Path | None, typer.Option(rich_help_panel=_MEASURES, help="Folder of the weights of LPIPS.")
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_JUDGE,
            metavar="URL",
            help="Endpoint of a judge, such as https://api.openai.com/v1; none by default.",
        ),
    ] = None,
    judge_model: Annotated[
        str | None, typer.Option(rich_help_panel=_JUDGE, help="Model of the judge.")
    ] = None,
    judge_key_env: Annotated[
        str,
        typer.Option(
            rich_help_panel=_JUDGE,
            help="Environment variable with the judge's key; '' for an endpoint without keys.",
        ),
    ] = "OPENAI_API_KEY",
    judge_rubric: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_JUDGE,
            help="gedit, imgedit, imgedit-uge, or a YAML file of your own; by default imgedit's own for "
            "imgedit, else gedit.",
        ),
    ] = None,
    judge_cache: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=_JUDGE, help="Folder of paid answers; judge-cache beside --out by default."
        ),
    ] = None,
    judge_prices: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_JUDGE,
            metavar="IN,OUT",
            help="What the judge asks for a million tokens read and written: counts the cost.",
        ),
    ] = None,
    judge_rpm: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=_JUDGE, help="Requests to the judge per minute, at most.", show_default=False
        ),
    ] = None,
    judge_concurrency: Annotated[
        int, typer.Option(rich_help_panel=_JUDGE, min=1, help="Images that are judged at once.")
    ] = 4,
    hand_over: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_OTHERS,
            metavar="EVALUATOR",
            help="Say where the images lie for an evaluator of others, and write what it needs beside them: "
            "evalscope for gedit, geneval for geneval.",
        ),
    ] = None,
    results: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=_OTHERS,
            metavar="NAME=PATH",
            help="What that evaluator said of a contender, such as student: EvalScope's output folder, or "
            "the file that GenEval's --outfile named; may be repeated.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Say what would be drawn, and what the judge would take. Writes nothing, but that images "
            "inside the tables of gedit and emuedit are unpacked as for an evaluation.",
        ),
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per forward on a benchmark.")] = 8,
    margin: Annotated[
        float,
        typer.Option(min=0.0, help="What counts as no loss, as a share of the other's score."),
    ] = 0.05,
    ground: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=_SHAPESWORLD,
            help="Ground to score: t2i, local, global or edit; may be repeated; the first three by default.",
        ),
    ] = None,
    prompts: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=_SHAPESWORLD,
            min=1,
            help="Test prompts per category of ShapesWorld; 48 by default.",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="Euler steps from noise to image; 8 on ShapesWorld and 28 elsewhere by default."
        ),
    ] = None,
    guidance_scale: Guidance = 1.0,
    seed: Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the evaluation, RUN/eval/BENCHMARK by default; without --benchmark a JSON file "
            "of the scores, which are printed when it is not given."
        ),
    ] = None,
    device: Device = None,
) -> None:
    """Report what a student kept on a public benchmark, or score a model on ShapesWorld exactly.

    Example: [bold]danceopd eval --benchmark gedit --data GEdit-Bench --run runs/x --against base,edit[/bold].
    What is there already is not made, measured or judged again.
    """
    if run is not None and model is not None and run != model:
        raise ValueError(f"'{model}' and --run {run} are two runs: name one.")
    model = run or model
    if model is None:
        raise ValueError("nothing to evaluate: name the folder of a run.")
    given = given_options(context)
    if benchmark is None:
        refuse(
            (name for name in given if name in _OF_BENCHMARKS),
            "is for a benchmark: name one by --benchmark too.",
        )
        _score(model, ground, prompts or 48, steps or 8, guidance_scale, seed, out, device)
        return
    options = list(option or ())
    if benchmark == _WORLD:
        options += [f"grounds={','.join(ground)}"] if ground else []
        options += [f"prompts={prompts}"] if prompts else []
    elif ground or prompts:
        raise ValueError(f"--ground and --prompts are for ShapesWorld, but the benchmark is {benchmark}.")
    if judge is None and judge_model is None:
        refuse(
            (name for name in given if name in _OF_JUDGES),
            "is for a judge: give --judge and --judge-model too, or drop it.",
        )
    asked = Asked(
        benchmark, model, data, options, against or (), out, metrics or (), clip, dino, lpips, judge,
        judge_model, judge_key_env, judge_rubric, judge_cache, judge_prices, judge_rpm, judge_concurrency,
        hand_over, results or (), steps, guidance_scale, seed, batch_size, margin, device,
    )  # fmt: skip
    evaluate_on(asked, dry_run=dry_run)


def _score(
    model: str,
    ground: list[str] | None,
    prompts: int,
    steps: int,
    guidance_scale: float,
    seed: int,
    out: Path | None,
    device: str | None,
) -> None:
    """Exact scores on ShapesWorld, as JSON."""
    from danceopd import shapesworld
    from danceopd.files import check_writable, write_whole
    from danceopd.settings import nearest

    grounds = ground or ["t2i", "local", "global"]
    for name in grounds:
        if name not in shapesworld.GROUNDS:
            raise ValueError(f"ground '{name}' is unknown: {nearest(name, shapesworld.GROUNDS)}")
    if out is not None:
        check_writable(out)
    family, field = open_model(model, _WORLD, device)
    if not isinstance(family, shapesworld.ShapesWorldFamily):
        raise ValueError(
            f"'{model}' is of the family '{family.name}', but only ShapesWorld can be scored without a "
            "benchmark: name one by --benchmark."
        )
    scores = shapesworld.evaluate(
        family, field, grounds, prompts=prompts, num_steps=steps, guidance_scale=guidance_scale, seed=seed
    )
    text = json.dumps(scores.to_dict(), indent=2)
    if out is None:
        typer.echo(text)
    else:
        write_whole(out, f"{text}\n".encode())
