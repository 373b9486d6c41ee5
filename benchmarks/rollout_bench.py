"""What stopping a rollout at the queried state saves, in forwards and in time.

    python benchmarks/rollout_bench.py      # a table, and benchmarks/results/rollout-cpu-<date>.json

ShapesWorld's base rolls out the same samples twice, to the end and to their queried states (the plan of real
updates, Beta(5, 2)). Both take turns in each round; a ratio is the median of the ratios within rounds. The
clock is the process's CPU time, which other processes do not prolong by taking the core away.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch

import danceopd
from danceopd.flow import QueryLaw, SigmaGrid, draw_noise, rollout
from danceopd.shapesworld import ShapesWorldFamily
from danceopd.training import Plan

RESULTS = Path(__file__).parent / "results"


def measure(num_steps: int, batch_size: int, ground: str, rounds: int) -> dict[str, Any]:
    """Forwards and seconds of one rollout, full and stopped, over the batches of `rounds` updates."""
    family = ShapesWorldFamily()
    field, rows, grid = family.field("base"), family.data(ground), SigmaGrid.uniform(num_steps)
    plan = Plan(
        seed=0,
        route_weights=(1.0,),
        route_sizes=(len(rows),),
        query=QueryLaw(),
        num_steps=num_steps,
        drop_probability=0.0,
        slots_per_rank=batch_size,
    )
    full_s, stopped_s, full_n, stopped_n = [], [], 0, 0
    for step in range(rounds + 1):
        slots = plan.step(step)
        noise = draw_noise([slot.noise_seed for slot in slots], family.shape())
        condition = family.encode([rows[slot.row] for slot in slots])
        stop = torch.tensor([slot.states[-1] for slot in slots])
        start = time.process_time()
        full = rollout(field, noise, grid, condition)
        middle = time.process_time()
        stopped = rollout(field, noise, grid, condition, stop=stop)
        end = time.process_time()
        if step:  # the first round warms up
            full_s.append(middle - start)
            stopped_s.append(end - middle)
            full_n += full.forwards
            stopped_n += stopped.forwards
    return {
        "ground": ground,
        "num_steps": num_steps,
        "batch_size": batch_size,
        "forwards_saved": 1 - stopped_n / full_n,
        "time_saved": 1 - statistics.median(b / a for a, b in zip(full_s, stopped_s, strict=True)),
        "full_seconds": statistics.median(full_s),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--out", type=Path, default=RESULTS / f"rollout-cpu-{date.today()}.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    print(f"{'ground':8} {'steps':>5} {'batch':>5} {'forwards saved':>14} {'time saved':>10}")
    for ground in ("t2i", "edit"):
        for num_steps in (8, 16):
            for batch_size in arguments.batch_sizes:
                row = measure(num_steps, batch_size, ground, arguments.rounds)
                rows.append(row)
                saved = f"{row['forwards_saved']:>13.1%} {row['time_saved']:>10.1%}"
                print(f"{ground:8} {num_steps:>5} {batch_size:>5} {saved}", flush=True)
    result = {
        "date": str(date.today()),
        "machine": {"processor": platform.processor() or platform.machine(), "threads": 1},
        "versions": {"danceopd": danceopd.__version__, "torch": torch.__version__},
        "law": "Beta(5, 2) over the index; expected share of forwards saved "
        + ", ".join(f"{1 - QueryLaw().expected_forwards(n) / n:.3f} at {n}" for n in (8, 16)),
        "rows": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"stored in {arguments.out}")


if __name__ == "__main__":
    main()
