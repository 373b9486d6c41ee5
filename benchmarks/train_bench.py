"""Samples per second and memory of one update: the recipe of public trainers against ours, idea by idea.

    python benchmarks/train_bench.py                # small models, one thread, minutes
    python benchmarks/train_bench.py --quick        # less of it, within a minute; nothing is stored
    python benchmarks/train_bench.py --full-size    # random weights of real sizes, bfloat16, on a GPU

All cases do the same work: one base, its LoRA and the base under guidance as teachers, a LoRA student, and
the plan of real updates (16 steps, Beta(5, 2)). Before any time is taken, queried states, losses and
gradients of every case are compared with the published recipe's. An update is timed without the optimizer's
step, which is the same for all, and without the filling of the prompt cache, which is done once per run.

Ratios are medians of the ratios within rounds, in which all cases take turns. The clock is CPU time on the
CPU, and wall time between synchronisations on a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import diffusers
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from trainbench.ladder import ladder
from trainbench.measure import check_same_work, compile_seconds, lines_of, memory_of, seconds_of
from trainbench.worlds import World, flux2, sd3, shapesworld

import danceopd

RESULTS = Path(__file__).parent / "results"
WORLDS: dict[str, Callable[..., World]] = {"shapesworld": shapesworld, "sd3": sd3, "flux2": flux2}
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 1e-1}  # of rounding, grown over the steps of a rollout


def measure(world: World, arguments: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """All cases of one world."""
    cases = ladder(arguments.width, arguments.micro, compiled=arguments.compile)
    works = [world.work(step, arguments.samples) for step in range(arguments.rounds + 1)]
    compiling = None
    if arguments.compile:
        compiling = compile_seconds(cases, world, works)
        progress.console.print(f"{world.name}: compiled in {compiling:.0f} s, which counts in no case")
    task = progress.add_task(world.name, total=len(cases) * len(works), doing="same work?")
    tolerance = TOLERANCE[next(world.base.parameters()).dtype]
    apart = check_same_work(cases, world, works[0], tolerance)
    memory = {}
    for case in cases:
        progress.update(task, advance=1, doing=f"memory: {case.name}")
        memory[case.name] = memory_of(case, world, works[0])
    seconds = seconds_of(
        cases, world, works[1:], lambda case: progress.update(task, advance=1, doing=f"time: {case.name}")
    )
    return {
        "world": world.name,
        "parameters": sum(value.numel() for value in world.base.parameters()),
        "samples": arguments.samples,
        "rounds": arguments.rounds,
        **({} if compiling is None else {"compile_seconds": compiling}),
        "cases": lines_of(cases, seconds, memory, apart, arguments.samples),
    }


def table_of(result: dict[str, Any]) -> Table:
    """A world's cases for the terminal."""
    title = f"{result['world']}: {result['samples']} samples per update, median of {result['rounds']} rounds"
    table = Table(title=title)
    for column in ("", "case", "samples/s", "speed-up", "(least, most)", "weights MiB", "update MiB"):
        table.add_column(column, no_wrap=True, justify="left" if column in ("", "case") else "right")
    group = ""
    for line in result["cases"]:
        low, high = line["speedup_range"]
        table.add_row(
            line["group"] if line["group"] != group else "",
            line["name"],
            f"{line['samples_per_second']:.2f}",
            f"{line['speedup']:.2f}",
            f"({low:.2f}, {high:.2f})",
            f"{line['weights_bytes'] / 2**20:.1f}",
            f"{line['update_bytes'] / 2**20:.1f}",
        )
        group = line["group"]
    return table


def markdown(results: list[dict[str, Any]]) -> str:
    """The speed-ups side by side, as a document shows them."""
    names = [line["name"] for line in results[0]["cases"]]
    head = ["", "against", *(result["world"] for result in results)]
    rows = [head, ["---"] * len(head)]
    for position, name in enumerate(names):
        lines = [result["cases"][position] for result in results]
        rows.append([name, lines[0]["against"], *(f"{line['speedup']:.2f}" for line in lines)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="ShapesWorld alone, small and short")
    parser.add_argument("--full-size", action="store_true", help="real sizes, needs a GPU")
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, help="default: all that the size is meant for")
    parser.add_argument("--samples", type=int, help="of one update (default: 12; 4 if quick)")
    parser.add_argument("--steps", type=int, help="of a rollout (default: 16; 4 if quick)")
    parser.add_argument("--width", type=int, default=4, help="of narrow rollouts (default: 4)")
    parser.add_argument("--micro", type=int, help="queried states per pass (default: all; 4 at full size)")
    parser.add_argument(
        "--compile", action="store_true", help="also with compiled blocks, which takes minutes to begin with"
    )
    parser.add_argument("--rounds", type=int, help="default: 3")
    parser.add_argument("--device", default=None, help="default: cuda for --full-size, else cpu")
    parser.add_argument("--out", type=Path, help="JSON file (default: in benchmarks/results)")
    arguments = parser.parse_args()
    full, quick = arguments.full_size, arguments.quick
    if full and not torch.cuda.is_available():
        parser.error("--full-size needs a CUDA device, and torch sees none: leave it out for small models.")
    device = torch.device(arguments.device or ("cuda" if full else "cpu"))
    names = arguments.worlds or (["shapesworld"] if quick else ["sd3", "flux2"] if full else list(WORLDS))
    arguments.samples = arguments.samples or (4 if quick else 12)
    arguments.steps = arguments.steps or (4 if quick else 16)
    arguments.rounds = arguments.rounds or (1 if quick else 3)
    arguments.micro = (4 if full else 0) if arguments.micro is None else arguments.micro
    torch.set_num_threads(1)
    console = Console(width=None if sys.stdout.isatty() else 120)
    report: dict[str, Any] = {
        "date": str(date.today()),
        "machine": {"device": _device_name(device), "threads": 1, "cores": os.cpu_count()},
        "versions": {
            "danceopd": danceopd.__version__,
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "python": platform.python_version(),
        },
        "settings": {"steps": arguments.steps, "width": arguments.width, "micro": arguments.micro},
        "worlds": [],
    }
    path = None if quick else RESULTS / f"train-{device.type}{'-full' * full}-{date.today()}.json"
    path = arguments.out or path
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[doing]}"), console=console) as progress:
        for name in names:
            options = {"full_size": True} if full else {}
            world = WORLDS[name](device, arguments.steps, **options)
            report["worlds"].append(measure(world, arguments, progress))
            console.print(table_of(report["worlds"][-1]))
            if path is not None:  # after each, so that a run that is stopped has not measured for nothing
                _store(report, path)
    console.print(markdown(report["worlds"]), markup=False, soft_wrap=True)
    if path is not None:
        console.print(f"stored in {path}", soft_wrap=True)


def _store(report: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(markdown(report["worlds"]) + "\n", encoding="utf-8")


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    for line in _lines_of(Path("/proc/cpuinfo")):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


if __name__ == "__main__":
    main()
