"""`danceopd demo`: frozen experts become one student, in minutes, with an exact scoreboard.

Two settings, each in a process of its own with one thread: local + global editing, and text-to-image +
editing. All of it goes through the same trainer, sampler and kernels as any other run.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from danceopd.flow import ModelField, VelocityField
from danceopd.methods import merge_weights
from danceopd.training import DanceOPDTrainer, Route, StudentConfig, Teacher, TrainConfig, read_metrics

from .evaluate import Scores, evaluate
from .family import ShapesWorldFamily
from .model import predict
from .report import draw_pictures, write_report
from .scoreboard import print_scoreboard
from .weights import STUDENT_FILE

METRICS_FILE = "metrics.json"


@dataclass(frozen=True)
class Setting:
    """One comparison: the grounds to hold, the expert of each, and how the student is trained.

    Attributes:
        experts: ground -> shipped expert that holds it.
        init: where the student starts: experts with the factors of their differences from the base.
        updates: optimizer steps of 16 samples.
    """

    name: str
    experts: dict[str, str]
    init: dict[str, float]
    updates: int


SETTINGS = (
    Setting(
        "local-global",
        experts={"local": "local", "global": "global"},
        init={"local": 1.0, "global": 0.35},
        updates=520,
    ),
    Setting("t2i-edit", experts={"t2i": "base", "edit": "edit"}, init={"edit": 0.8}, updates=450),
)


def run_demo(*, output_dir: Path = Path("runs/demo"), seed: int = 0, prompts: int = 32) -> dict[str, Any]:
    """Distil, score and report both settings; a demo that was stopped goes on where it was.

    Args:
        output_dir: gets metrics.json, pictures (PNG), report.html and one run folder per setting.
        seed: of training and of the sampling noise.
        prompts: test tasks per category.

    Returns:
        What metrics.json holds: scores per category of base, experts, weight merge and student, times, seeds.

    Raises:
        ConfigError: `output_dir` cannot be written, or holds a demo of another seed.
    """
    began = time.monotonic()
    console = Console()
    for setting in SETTINGS:
        # What is wrong with the folder is told here, before any file is written.
        make_trainer(setting, output_dir / setting.name, seed).find_start()
    pool = ProcessPoolExecutor(
        len(SETTINGS), mp_context=multiprocessing.get_context("spawn"), initializer=_ignore_sigterm
    )
    with _one_thread(), pool:
        futures = [pool.submit(_work, setting, output_dir, seed, prompts) for setting in SETTINGS]
        try:
            _watch(console, futures, output_dir)
            # A setting that failed first: the other one may train for minutes yet.
            for future in sorted(futures, key=lambda future: not future.done()):
                future.result()
        except BaseException:
            # The other setting need not train to its end first: SIGTERM lets it save and go.
            for process in multiprocessing.active_children():
                process.terminate()
            raise
    results = [future.result() for future in futures]
    metrics = {"seed": seed, "seconds": time.monotonic() - began, "settings": {r["name"]: r for r in results}}
    write_report(output_dir, metrics)
    _write_json(output_dir / METRICS_FILE, metrics)
    print_scoreboard(console, metrics)
    console.print(f"Pictures and numbers: {output_dir / 'report.html'}, {output_dir / METRICS_FILE}")
    return metrics


def make_trainer(setting: Setting, folder: Path, seed: int) -> DanceOPDTrainer:
    """The trainer of a setting, as a user's script would make it."""
    return DanceOPDTrainer(
        family=ShapesWorldFamily(),
        teachers=[
            Teacher(expert) if expert == "base" else Teacher(expert, lora=expert)
            for expert in setting.experts.values()
        ],
        routes=[Route(expert, data=ground) for ground, expert in setting.experts.items()],
        config=TrainConfig(
            output_dir=folder,
            student=StudentConfig(init=setting.init),
            max_steps=setting.updates,
            batch_size=16,
            gradient_accumulation_steps=1,
            num_rollout_steps=4,
            learning_rate=2e-3,
            lr_schedule="linear",
            warmup_steps=setting.updates // 30,
            adam_beta2=0.98,
            ema_decay=0.98,
            save_every=100,
            seed=seed,
            progress=False,
        ),
    )


def run_setting(setting: Setting, output_dir: Path, seed: int, prompts: int) -> dict[str, Any]:
    """Train one setting's student, then score it beside base, experts and their weight merge."""
    torch.set_num_threads(1)
    folder = output_dir / setting.name
    result = make_trainer(setting, folder, seed).train()
    if result.stopped_by is not None:
        raise KeyboardInterrupt(f"stopped after {result.step} updates; the same command continues")
    trained = time.monotonic()
    family = ShapesWorldFamily()
    fields = contenders(family, setting, folder / STUDENT_FILE)
    grounds = list(setting.experts)
    scores = {
        name: evaluate(family, field, grounds, prompts=prompts, seed=seed) for name, field in fields.items()
    }
    draw_pictures(output_dir / f"{setting.name}.png", family, fields, grounds, seed=seed)
    return {
        "name": setting.name,
        "experts": setting.experts,
        "init": setting.init,
        "updates": setting.updates,
        "scores": {name: score.to_dict() for name, score in scores.items()},
        "verdict": verdict(setting, scores),
        "seconds": {
            "training": sum(line["time"]["seconds"] for line in read_metrics(folder / "metrics.jsonl")),
            "scoring": time.monotonic() - trained,
        },
    }


def contenders(family: ShapesWorldFamily, setting: Setting, student: Path) -> dict[str, VelocityField]:
    """Base, every expert, their weight merge, the student's start and the student, by name."""
    experts = {name: family.field(name) for name in dict.fromkeys(["base", *setting.experts.values()])}
    parts = [family.full_model(name).state_dict() for name in setting.experts.values()]
    merged = family.full_model("base")
    merged.load_state_dict(merge_weights(parts))
    return {
        **experts,
        "weight merge": ModelField(merged, predict),
        "start": family.student(StudentConfig(init=setting.init)).field,
        "student": family.field(str(student)),
    }


def verdict(setting: Setting, scores: dict[str, Scores]) -> dict[str, Any]:
    """What the student kept of each expert, and whether it beats all others on the mean over the grounds."""
    student = scores["student"]
    others = {name: score.mean for name, score in scores.items() if name != "student"}
    kept = {
        ground: student.ground(ground) / max(scores[expert].ground(ground), 1e-9)
        for ground, expert in setting.experts.items()
    }
    return {
        "kept_of_expert": kept,
        "best_other": max(others, key=lambda name: others[name]),
        "beats_all": all(student.mean > mean for mean in others.values()),
    }


def _ignore_sigterm() -> None:
    """Where a worker without work dies of the signal that stops the other, the pool kills that one too."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _work(setting: Setting, output_dir: Path, seed: int, prompts: int) -> dict[str, Any]:
    """`run_setting` in a worker: SIGTERM ends it as Ctrl-C would."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return run_setting(setting, output_dir, seed, prompts)
    finally:
        _ignore_sigterm()


@contextmanager
def _one_thread() -> Iterator[None]:
    """One OpenMP thread in processes started inside: two teams on two cores would spin against each other."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _watch(console: Console, futures: Sequence[Future[dict[str, Any]]], output_dir: Path) -> None:
    """Progress bars fed from the runs' metrics files, until every setting is done or one has failed."""
    columns = (
        TextColumn("{task.description:>14}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bars = {s.name: progress.add_task(s.name, total=s.updates, state="loading experts") for s in SETTINGS}
        while True:
            done, running = wait(futures, timeout=0.5)
            for setting, future in zip(SETTINGS, futures, strict=True):
                _show(progress, bars[setting.name], setting, output_dir / setting.name, future.done())
            if not running or any(future.exception() for future in done):
                return


def _show(progress: Progress, bar: TaskID, setting: Setting, folder: Path, finished: bool) -> None:
    line = _last_line(folder / "metrics.jsonl")
    if line is None:
        return
    losses = "  ".join(f"{route} {loss:.4f}" for route, loss in line["losses"].items())
    state = "done" if finished else "scoring" if line["step"] == setting.updates else f"loss {losses}"
    progress.update(bar, completed=line["step"], state=state)


def _last_line(path: Path) -> dict[str, Any] | None:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return json.loads(lines[-1]) if lines else None
    except (OSError, ValueError):
        return None  # not there yet, or caught in the middle of a write: the next look will see it


def _write_json(path: Path, content: dict[str, Any]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(part, path)
