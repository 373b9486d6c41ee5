"""How close the longer recipes bring one student to each of its experts, over several seeds.

    python benchmarks/recipe_bench.py configs/shapesworld_*.yaml --seeds 3

Leaves the runs in runs/recipes/ and a table in benchmarks/results/recipes-<date>.json. Every run is an
ordinary `danceopd train` in a process of its own with one thread; the same command continues what was
stopped. Students and experts are scored on the same test tasks from the same noise.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import diffusers
import torch
from rich.console import Console
from rich.table import Table

import danceopd
from danceopd.shapesworld import ShapesWorldFamily, evaluate
from danceopd.training import DanceOPDTrainer, load_run_config, read_metrics

RESULTS = Path(__file__).parent / "results"


def judge_student(config: Path, seed: int, out: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Train one student, or go on with it, and score it on the grounds of all routes."""
    torch.set_num_threads(1)
    folder = out / f"{config.stem}-seed{seed}"
    run = load_run_config(config, [f"seed={seed}", f"output_dir={folder}"])
    family = ShapesWorldFamily()
    DanceOPDTrainer(family=family, teachers=run.teachers, routes=run.routes, config=run).train()
    scores = evaluate(family, family.field(str(folder)), [route.data for route in run.routes], **options)
    lines = read_metrics(folder / "metrics.jsonl")
    return {"seed": seed, "seconds": sum(line["time"]["seconds"] for line in lines), **scores.to_dict()}


def judge_expert(config: Path, ground: str, options: dict[str, Any]) -> dict[str, Any]:
    """Score the teacher of a route on the route's ground."""
    torch.set_num_threads(1)
    run, family = load_run_config(config), ShapesWorldFamily()
    name = next(route.teacher for route in run.routes if route.data == ground)
    teacher = next(teacher for teacher in run.teachers if teacher.name == name)
    return {"teacher": name, **evaluate(family, family.teacher(teacher), ground, **options).to_dict()}


def summarise(students: Sequence[dict[str, Any]], experts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Per ground: the expert's score, the students' mean and spread, what is kept, the diversity of both."""
    table = {}
    for ground, expert in experts.items():
        own = expert["grounds"][ground]
        reached = [student["grounds"][ground] for student in students]
        kept = [score / own for score in reached]
        table[ground] = {
            "expert": own,
            "student_mean": statistics.mean(reached),
            "student_std": statistics.stdev(reached) if len(reached) > 1 else None,
            "kept_mean": statistics.mean(kept),
            "kept_std": statistics.stdev(kept) if len(kept) > 1 else None,
            "diversity": {
                name: {
                    "expert": entry["ratio"],
                    "student_mean": statistics.mean(
                        s["diversity"][ground][name]["ratio"]
                        for s in students
                        if name in s["diversity"][ground]  # no layout without right answers
                    ),
                }
                for name, entry in expert["diversity"][ground].items()
                if name != "readable"
            },
        }
    return table


def main() -> None:
    """Run, print and store."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("configs", nargs="+", type=Path, metavar="CONFIG")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 .. N - 1 (default: 3)")
    parser.add_argument("--prompts", type=int, default=128, help="tasks per category (default: 128)")
    parser.add_argument("--split", default="test", help="validation to choose settings, test to report them")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: cores)")
    parser.add_argument("--out", type=Path, default=Path("runs/recipes"), help="folder of the runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON file")
    arguments = parser.parse_args()

    # One OpenMP thread in each process: two teams on one core would spin against each other.
    os.environ["OMP_NUM_THREADS"] = "1"
    options = {"prompts": arguments.prompts, "split": arguments.split}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.workers, mp_context=context) as pool:
        students = {
            config: [
                pool.submit(judge_student, config, seed, arguments.out, options)
                for seed in range(arguments.seeds)
            ]
            for config in arguments.configs
        }
        experts = {
            config: {
                route.data: pool.submit(judge_expert, config, route.data, options)
                for route in load_run_config(config).routes
            }
            for config in arguments.configs
        }
        recipes = {}
        for config in arguments.configs:
            judged = [future.result() for future in students[config]]
            teachers = {ground: future.result() for ground, future in experts[config].items()}
            recipes[config.stem] = {
                "summary": summarise(judged, teachers),
                "students": judged,
                "experts": teachers,
            }

    today = date.today().isoformat()
    report = {
        "date": today,
        "machine": f"{os.cpu_count()} cores, no GPU",
        "versions": {
            "danceopd": danceopd.__version__,
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
        },
        **options,
        "recipes": recipes,
    }
    arguments.results.mkdir(parents=True, exist_ok=True)
    path = arguments.results / f"recipes-{today}.json"
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for name, recipe in recipes.items():
        _print(name, recipe)
    print(path)


def _print(name: str, recipe: dict[str, Any]) -> None:
    seconds = statistics.mean(student["seconds"] for student in recipe["students"])
    table = Table(title=f"{name}: {len(recipe['students'])} seeds, {seconds:.0f} s of training each")
    for column in ("ground", "expert", "student", "kept", "diversity (student / expert)"):
        table.add_column(column)
    for ground, row in recipe["summary"].items():
        spread = "" if row["student_std"] is None else f" +- {100 * row['student_std']:.1f}"
        varied = ", ".join(
            f"{key} {entry['student_mean']:.2f} / {entry['expert']:.2f}"
            for key, entry in row["diversity"].items()
        )
        table.add_row(
            ground,
            f"{100 * row['expert']:.1f}",
            f"{100 * row['student_mean']:.1f}{spread}",
            f"{100 * row['kept_mean']:.1f} %",
            varied,
        )
    Console().print(table)


if __name__ == "__main__":
    main()
