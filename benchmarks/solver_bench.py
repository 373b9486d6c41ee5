"""How far the states of a rollout are from where its ODE leads, by Euler's and by second-order steps.

    python benchmarks/solver_bench.py        # a table, and benchmarks/results/solvers-<date>.json

ShapesWorld's base and experts roll out from the noise of real updates to every state of grids of 4, 8 and 16
steps; the reference is Euler with 256 steps, whose grid holds all of these noise levels. Distances are root
mean squares over elements, weighted by the law of the queried states (Beta(5, 2)), and at the clean end; 1
is half a latent's range. `--train` distils with each solver too, and scores the student.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

import danceopd
from danceopd.flow import Condition, QueryLaw, SigmaGrid, Solver, VelocityField, draw_noise, rollout
from danceopd.shapesworld import ShapesWorldFamily, evaluate
from danceopd.training import DanceOPDTrainer, load_run_config

RESULTS = Path(__file__).parent / "results"
REFERENCE_STEPS = 256
FIELDS = {"base": "t2i", "edit": "edit", "local": "local", "global": "global"}
SOLVERS: tuple[Solver, ...] = ("euler", "ab2")


def path_of(field: VelocityField, noise: Tensor, steps: int, condition: Condition, solver: Solver) -> Tensor:
    """Every state [B, steps + 1, ...] of a rollout."""
    grid = SigmaGrid.uniform(steps)
    stop = torch.arange(steps + 1).expand(len(noise), -1).contiguous()
    return rollout(field, noise, grid, condition, stop=stop, solver=solver).sample


def distances(
    name: str, ground: str, counts: list[int], samples: int, reference_steps: int = REFERENCE_STEPS
) -> list[dict[str, Any]]:
    """Of one field on one ground, for each number of steps and solver."""
    family = ShapesWorldFamily()
    field = family.field("base") if name == "base" else family.field("base", lora=name)
    rows = family.data(ground)
    noise = draw_noise(range(samples), family.shape())
    condition = family.encode([rows[row] for row in range(samples)])
    exact = path_of(field, noise, reference_steps, condition, "euler")
    lines = []
    for steps in counts:
        wanted = exact[:, :: reference_steps // steps]
        weights = torch.tensor(QueryLaw().probabilities(steps))
        for solver in SOLVERS:
            found = path_of(field, noise, steps, condition, solver)
            error = (found - wanted).square().flatten(2).mean(dim=2)
            lines.append(
                {
                    "field": name,
                    "steps": steps,
                    "solver": solver,
                    "queried": float((error[:, :-1].mean(0) * weights).sum().sqrt()),
                    "clean": float(error[:, -1].mean().sqrt()),
                }
            )
    return lines


def students(config: Path, updates: int, prompts: int, seeds: int, counts: list[int]) -> list[dict[str, Any]]:
    """Scores after a short distillation with each solver and number of steps; all else is equal."""
    lines = []
    for steps in counts:
        for solver in SOLVERS:
            scores = []
            for seed in range(seeds):
                with tempfile.TemporaryDirectory() as folder:
                    settings = {
                        "seed": seed,
                        "output_dir": folder + "/run",
                        "max_steps": updates,
                        "num_rollout_steps": steps,
                        "rollout_solver": solver,
                        "progress": "false",
                    }
                    run = load_run_config(config, [f"{key}={value}" for key, value in settings.items()])
                    family = ShapesWorldFamily()
                    DanceOPDTrainer(
                        family=family, teachers=run.teachers, routes=run.routes, config=run
                    ).train()
                    grounds = [route.data for route in run.routes]
                    field = family.field(settings["output_dir"])
                    found = evaluate(family, field, grounds, prompts=prompts, split="test").to_dict()[
                        "grounds"
                    ]
                    scores.append({ground: found[ground] for ground in grounds})
            mean = [statistics.mean(score.values()) for score in scores]
            lines.append({"steps": steps, "solver": solver, "scores": scores, "mean": statistics.mean(mean)})
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--train", type=Path, metavar="CONFIG", help="also distil by this config")
    parser.add_argument("--updates", type=int, default=150, help="of each distillation")
    parser.add_argument("--prompts", type=int, default=32, help="tasks per category that score a student")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / f"solvers-{date.today()}.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        line
        for name, ground in track(FIELDS.items(), description="rollouts")
        for line in distances(name, ground, arguments.steps, arguments.samples)
    ]
    table = Table(title=f"distance to Euler with {REFERENCE_STEPS} steps")
    for column in ("field", "steps", "solver", "at queried states", "at the clean end"):
        table.add_column(column)
    for line in lines:
        distance = (f"{line[part]:.4f}" for part in ("queried", "clean"))
        table.add_row(line["field"], str(line["steps"]), line["solver"], *distance)
    console = Console()
    console.print(table)
    trained = []
    if arguments.train is not None:
        counts = sorted({arguments.steps[0], arguments.steps[-1]})
        trained = students(arguments.train, arguments.updates, arguments.prompts, arguments.seeds, counts)
        for line in trained:
            console.print(f"{line['solver']} with {line['steps']} steps: mean score {line['mean']:.3f}")
    report = {
        "date": str(date.today()),
        "versions": {"danceopd": danceopd.__version__, "torch": torch.__version__},
        "samples": arguments.samples,
        "distances": lines,
        "updates": arguments.updates if trained else None,
        "students": trained,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    console.print(f"stored in {arguments.out}", soft_wrap=True)


if __name__ == "__main__":
    main()
