"""The command line: ``danceopd info | demo | train | check | sample | eval | export``.

A user's mistake ends in one sentence on stderr and exit code 2, training that fails on the way in exit
code 1, and training stopped by a signal in 128 plus its number. ``--debug`` shows the traceback instead.
"""

from __future__ import annotations

import json
import platform
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, cast

import typer
from typer.core import TyperGroup

# torch takes seconds to import: the commands import what they need, so that help is there at once.
if TYPE_CHECKING:
    from danceopd.families import Family
    from danceopd.flow import VelocityField
    from danceopd.training import RunConfig


class _OneSentenceErrors(TyperGroup):
    """Tells a user's mistake in one sentence instead of a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (ValueError, OSError, ImportError, FloatingPointError, MemoryError, RuntimeError) as error:
            if ctx.params.get("debug") or _is_a_bug(error):
                raise
            _fail(error)


app = typer.Typer(
    cls=_OneSentenceErrors,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of the run.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Settings that replace the file's, such as max_steps=100 or teachers.0.guidance_scale=4.5.",
        show_default=False,
    ),
]
Model = Annotated[
    str,
    typer.Argument(
        metavar="RUN|EXPERT",
        help="A run's folder (its newest checkpoint is read), full weights, an expert's name, or base.",
    ),
]
FamilyName = Annotated[
    str,
    typer.Option(
        "--family",
        help="Family of an EXPERT: shapesworld, a folder or a Hub repository; a RUN knows its own.",
    ),
]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda or cuda:N; by default the run's own, and cpu for an EXPERT.")
]
Steps = Annotated[int, typer.Option(min=1, help="Euler steps from noise to image.")]
Guidance = Annotated[
    float, typer.Option(min=0.0, help="Classifier-free guidance on top of the model; 1 is none.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the starting noise.")]


@app.callback()
def _danceopd(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="DANCEOPD_DEBUG", help="Show tracebacks of errors.")
    ] = False,
) -> None:
    """Distil several frozen flow-matching experts into one student, on its own trajectories."""


@app.command()
def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show versions, instruction set and devices, and test the compiled kernels.

    Exit code 1 when a kernel is less exact than plain torch.
    """
    from dataclasses import asdict
    from importlib.metadata import PackageNotFoundError, version

    from danceopd import __version__, ops

    def installed(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    tests = ops.self_test()
    failed = [test for test in tests if not test.passed]
    packages = ("torch", "diffusers", "peft", "safetensors", "numpy")
    facts = {
        "danceopd": __version__,
        "python": platform.python_version(),
        **{package: installed(package) for package in packages},
        "kernels": asdict(ops.build_info()),
        "self_test": {"passed": not failed, "results": [asdict(t) | {"passed": t.passed} for t in tests]},
    }
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        _print_facts(facts)
    for test in failed:
        typer.echo(
            f"danceopd: kernel '{test.op}' is wrong on {test.device} in {test.dtype}: its error "
            f"{test.error:.1e} is above {test.allowed:.1e}; rebuild the package, or set "
            "DANCEOPD_OPS=reference until then.",
            err=True,
        )
    if failed:
        raise typer.Exit(1)


@app.command()
def demo(
    output_dir: Annotated[
        Path, typer.Option("--out", help="Folder of scores, pictures and the report.")
    ] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of training and scoring.")] = 0,
) -> None:
    """Distil the shipped ShapesWorld experts into one student and print the scoreboard, within minutes."""
    from danceopd.shapesworld.demo import run_demo

    run_demo(output_dir=output_dir, seed=seed)


@app.command()
def train(
    config: Config,
    overrides: Overrides = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume/--no-resume", help="Continue the run that output_dir holds, or insist on a new one."
        ),
    ] = True,
    resume_from: Annotated[
        Path | None, typer.Option(help="Checkpoint folder to continue from, instead of output_dir's newest.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Check the run first, as danceopd check does.")
    ] = True,
) -> None:
    """Train a student as CONFIG says; the same command continues a run that was stopped.

    Ctrl-C (or SIGTERM) finishes the update at hand, saves a checkpoint and ends.
    """
    from danceopd.training import DanceOPDTrainer, check_run

    if resume_from is not None and not resume:
        raise ValueError(
            f"--no-resume insists on a new run, but --resume-from {resume_from} continues one: "
            "drop one of them."
        )
    run, family = _open(config, overrides)
    if check:
        # Where it would continue is for the training itself to find out, under its lock.
        report, trainer = check_run(run, family=family, resume=None)
        for warning in report.warnings:
            typer.echo(f"danceopd: {warning}", err=True)
        if run.progress:
            typer.echo(report.estimate.line(), err=True)
    else:
        trainer = DanceOPDTrainer(family=family, teachers=run.teachers, routes=run.routes, config=run)
    result = trainer.train(resume=resume_from or resume)
    if result.stopped_by is not None:
        again = shlex.join(
            ["danceopd", "train", str(config), *(overrides or []), *([] if check else ["--no-check"])]
        )
        typer.echo(f"Stopped after {result.step} of {run.max_steps} updates; to go on: {again}", err=True)
        raise typer.Exit(128 + result.stopped_by)
    typer.echo(f"{result.step} updates done; the student is in {result.exported}", err=True)


@app.command()
def check(
    config: Config,
    overrides: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the picture of samples; 'check' in output_dir when not given."),
    ] = None,
    samples: Annotated[
        bool, typer.Option("--samples/--no-samples", help="Draw a sample per teacher and route.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Try everything that a run needs, before a day is spent on it, and tell what it will cost.

    Config, all rows, disk and memory, teachers, conventions, memory and time, and one sample per teacher and
    route. What fails ends the check in one sentence and exit code 2, and nothing is written.
    """
    from danceopd.training import check_run

    if out is not None and not samples:
        raise ValueError(f"--out {out} is for the samples, but --no-samples draws none: drop one of them.")
    run, family = _open(config, overrides)
    folder = (out or Path(run.output_dir) / "check") if samples else None

    def tell(step: str, line: str) -> None:
        if not as_json:
            typer.echo(f"✓ {step:10} {line}")

    report = check_run(run, family=family, samples=folder, tell=tell).report
    if as_json:
        typer.echo(report.to_json())
    for warning in report.warnings:
        typer.echo(f"danceopd: {warning}", err=True)


@app.command()
def sample(
    model: Model,
    prompt: Annotated[
        list[str], typer.Option(help="What to draw, or how to edit --source; may be repeated.")
    ],
    source: Annotated[
        list[Path] | None,
        typer.Option(help="Image to edit; may be repeated where the family takes several."),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Pixels, such as 768x1024; the family's choice when not given."),
    ] = None,
    steps: Steps = 16,
    guidance_scale: Guidance = 1.0,
    seed: Seed = 0,
    out: Annotated[
        Path,
        typer.Option(
            help="A .png file, where several images stand side by side, or a folder of one PNG each."
        ),
    ] = Path("sample.png"),
    zoom: Annotated[
        int | None, typer.Option(min=1, help="Enlarge each pixel N times; by default to 256 pixels or more.")
    ] = None,
    family: FamilyName = "shapesworld",
    lora: Annotated[str | None, typer.Option(help="LoRA to put on an EXPERT, which may be base.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32 or bfloat16; float32 by default, and a RUN knows its own.")
    ] = None,
    resolution: Annotated[
        int | None, typer.Option(min=16, help="Side of a square image of an EXPERT; a RUN knows its own.")
    ] = None,
    device: Device = None,
) -> None:
    """Draw images from a trained student or from an expert.

    Example: [bold]danceopd sample runs/x --prompt "red circle on grey"[/bold]
    """
    import danceopd
    from danceopd.pictures import check_pngs, read_png, write_pngs

    check_pngs(out)
    pixels = None if size is None else _pixels(size)
    sources = [read_png(path) for path in source or ()]
    loaded, field = _load(model, family, device, lora=lora, dtype=dtype, resolution=resolution)
    images = danceopd.sample(
        loaded,
        field,
        prompt,
        sources=[sources] * len(prompt),
        size=pixels,
        num_steps=steps,
        guidance_scale=guidance_scale,
        seed=seed,
    )
    for path in write_pngs(images, out, zoom):
        typer.echo(path)


@app.command("eval")
def evaluate(
    model: Model,
    ground: Annotated[
        list[str] | None,
        typer.Option(
            help="Ground to score: t2i, local, global or edit; may be repeated; the first three by default."
        ),
    ] = None,
    prompts: Annotated[int, typer.Option(min=1, help="Test prompts per category.")] = 48,
    steps: Steps = 8,
    guidance_scale: Guidance = 1.0,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="JSON file of the scores; printed when not given.")] = None,
    device: Device = None,
) -> None:
    """Score a trained student or an expert on ShapesWorld, exactly and per category."""
    from danceopd import shapesworld
    from danceopd.files import check_writable, write_whole
    from danceopd.settings import nearest

    grounds = ground or ["t2i", "local", "global"]
    for name in grounds:
        if name not in shapesworld.GROUNDS:
            raise ValueError(f"ground '{name}' is unknown: {nearest(name, shapesworld.GROUNDS)}")
    if out is not None:
        check_writable(out)
    family, field = _load(model, "shapesworld", device)
    if not isinstance(family, shapesworld.ShapesWorldFamily):
        raise ValueError(f"'{model}' is of the family '{family.name}', but only ShapesWorld can be scored.")
    scores = shapesworld.evaluate(
        family, field, grounds, prompts=prompts, num_steps=steps, guidance_scale=guidance_scale, seed=seed
    )
    text = json.dumps(scores.to_dict(), indent=2)
    if out is None:
        typer.echo(text)
    else:
        write_whole(out, f"{text}\n".encode())


@app.command()
def export(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run's folder; its newest checkpoint is read.")
    ],
    format: Annotated[
        str,
        typer.Option(
            help="diffusers (a file for load_lora_weights, or a pipeline's folder), peft or comfyui."
        ),
    ] = "diffusers",
    out: Annotated[
        Path | None, typer.Option(help="New folder of the export; RUN/export-FORMAT when not given.")
    ] = None,
    device: Device = None,
) -> None:
    """Write a run's student in a format that others load, and prove that they load it.

    The export is loaded back in a fresh process and its velocity compared with the student's.
    """
    from danceopd.families.export import ExportError, export_student
    from danceopd.families.pretrained import PretrainedFamily
    from danceopd.training import load_student

    loaded = load_student(run, device=device)
    if not isinstance(loaded.family, PretrainedFamily):
        raise ValueError(
            f"'{run}' is of the family '{loaded.family.name}', whose students are exported as training ends: "
            "take the file in its folder."
        )
    try:
        exported = export_student(
            loaded.family, loaded.student, out or run / f"export-{format}", cast(Any, format)
        )
    except ExportError as error:
        typer.echo(f"danceopd: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(
        f"loaded back with an error of {exported.error:.1e}, where the base is {exported.effect:.1e} away",
        err=True,
    )
    typer.echo(exported.path)


def main() -> None:
    """Entry point of the ``danceopd`` command."""
    app(prog_name="danceopd")


def _open(config: Path, overrides: list[str] | None) -> tuple[RunConfig, Family]:
    import torch

    from danceopd.families import load_family
    from danceopd.training import load_run_config

    run = load_run_config(config, overrides or ())
    dtype = getattr(torch, run.dtype)
    return run, load_family(run.family, dtype=dtype, device=run.device, resolution=run.resolution)


def _load(
    model: str,
    family: str,
    device: str | None,
    *,
    lora: str | None = None,
    dtype: str | None = None,
    resolution: int | None = None,
) -> tuple[Family, VelocityField]:
    import torch

    from danceopd.families import Teacher, load_family
    from danceopd.training import load_student

    if (Path(model) / "config.yaml").is_file():
        for option, value in (("lora", lora), ("dtype", dtype), ("resolution", resolution)):
            if value is not None:
                raise ValueError(f"--{option} {value} is for an EXPERT, but '{model}' is a run: drop it.")
        student = load_student(model, device=device)
        typer.echo(f"{model}: {student.step} of {student.config.max_steps} updates", err=True)
        return student.family, student.field
    if dtype not in (None, "float32", "bfloat16"):
        raise ValueError(f"--dtype '{dtype}' is unknown: use float32 or bfloat16.")
    loaded = load_family(
        family, dtype=getattr(torch, dtype or "float32"), device=device or "cpu", resolution=resolution
    )
    checkpoint = None if model == "base" else model
    return loaded, loaded.teacher(Teacher(model, checkpoint=checkpoint, lora=lora))


def _pixels(size: str) -> tuple[int, int]:
    height, _, width = size.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise ValueError(f"--size '{size}' must be height x width in pixels, such as 768x1024.")
    return int(height), int(width)


def _print_facts(facts: dict[str, Any]) -> None:
    kernels, results = facts["kernels"], facts["self_test"]["results"]
    cuda = "no"
    if kernels["cuda_built"]:
        cuda = f"runtime {kernels['cuda_runtime']}, for {', '.join(kernels['cuda_archs'])}"
    passed = sum(test["passed"] for test in results)
    where = ", ".join(dict.fromkeys(test["device"] for test in results))
    lines = {
        **{name: value for name, value in facts.items() if isinstance(value, str)},
        "kernels": f"{kernels['backend']}, version {kernels['version']}, built by {kernels['compiler']}",
        "instructions": f"{kernels['cpu_isa']} (of {', '.join(kernels['cpu_isas'])})",
        "CUDA build": cuda,
        "CUDA driver": kernels["cuda_driver"] or "none",
        "CUDA devices": ", ".join(kernels["cuda_devices"])
        or f"none ({kernels['cuda_problem'] or 'none found'})",
        "self-test": f"{passed} of {len(results)} passed on {where}",
    }
    for name, value in lines.items():
        typer.echo(f"{name:14}{value}")


def _is_a_bug(error: Exception) -> bool:
    """Whether the error is ours, so that its traceback is worth more than a sentence."""
    if isinstance(error, ImportError):
        return (error.name or "").startswith("danceopd")
    return isinstance(error, RuntimeError) and type(error).__name__ != "OutOfMemoryError"


def _fail(error: Exception) -> NoReturn:
    if isinstance(error, OSError) and error.strerror:
        where = f"'{error.filename}': " if error.filename else ""
        text = f"{where}{error.strerror}."
    elif isinstance(error, ModuleNotFoundError) and error.name:
        text = f"the package '{error.name}' is not installed: pip install {error.name}."
    elif isinstance(error, (RuntimeError, MemoryError)) and not type(error).__module__.startswith("danceopd"):
        text = "out of memory: lower batch_size (raise gradient_accumulation_steps) or rollout_batch_size."
    else:
        text = " ".join(str(error).split()) or type(error).__name__
    typer.echo(f"danceopd: {text}", err=True)
    raise typer.Exit(1 if isinstance(error, (FloatingPointError, MemoryError, RuntimeError)) else 2)
