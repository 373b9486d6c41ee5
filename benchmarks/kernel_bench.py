"""Time the ops against eager torch, hand-tuned eager torch and torch.compile.

    python benchmarks/kernel_bench.py            # the CPU: a table, and benchmarks/results/cpu-<date>.json
    python benchmarks/kernel_bench.py --device cuda --sizes 1048576 16777216

In each round the contenders take turns, so a slow spell of the machine hits all of them; a time is the median
over rounds, a ratio the median of the ratios within rounds. "Tuned" is what a careful author writes without
kernels: fused torch calls into preallocated outputs (the others allocate theirs). GB/s counts every operand
and result once. On one CPU thread the clock is that thread's CPU time, which other processes do not prolong
by taking the core away; otherwise it is wall time, and on CUDA device time with the launches.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch

from danceopd import ops

Tensor = torch.Tensor
Run = Callable[[], object]
BATCH, FIELDS = 4, 3
SIGMA, SIGMA_NEXT, SCALE, WEIGHTS = 0.8, 0.7, 4.5, (0.2, 0.3, 0.5)


class Case:
    """Operands of one size and dtype, and every op on them in each of its forms."""

    def __init__(self, size: int, dtype: torch.dtype, device: torch.device) -> None:
        shape = (min(BATCH, size), max(1, size // BATCH))
        generator = torch.Generator().manual_seed(0)
        self.x = [torch.randn(shape, generator=generator).to(device, dtype) for _ in range(FIELDS)]
        self.out, self.spare = torch.empty_like(self.x[0]), torch.empty_like(self.x[0])
        self.index = torch.arange(shape[0], device=device) % FIELDS
        self.rows = torch.arange(shape[0], device=device)
        self.one = self.x[0].numel() * self.x[0].element_size()

    def forms(self) -> dict[str, tuple[int, Run, Run, Run]]:
        """By op: tensors moved, then danceopd, eager, tuned."""
        (x, v, u), out, spare, d = self.x, self.out, self.spare, SIGMA_NEXT - SIGMA
        w0, w1, w2 = WEIGHTS
        n = x.numel()

        def tuned_guided_step() -> Tensor:
            torch.lerp(u, v, SCALE, out=spare)
            return torch.add(x, spare, alpha=d, out=out)

        def tuned_blend() -> Tensor:
            return torch.mul(x, w0, out=out).add_(v, alpha=w1).add_(u, alpha=w2)

        def tuned_route() -> Tensor:
            index = self.index.view(-1, 1)
            return torch.where(index == 0, x, torch.where(index == 1, v, u), out=out)

        def eager_mse() -> tuple[Tensor, Tensor]:
            student = x.detach().requires_grad_()
            each = (student.float() - v.float()).square().mean(1)
            return each, torch.autograd.grad(each.mean(), student)[0]

        def tuned_mse() -> tuple[Tensor, Tensor]:
            torch.sub(x, v, out=spare)
            each = torch.linalg.vector_norm(spare, dim=1, dtype=torch.float32).square_().mul_(x.shape[0] / n)
            return each, torch.mul(spare, 2 / n, out=out)

        return {
            "guide": (
                3,
                lambda: ops.guide(u, v, SCALE),
                lambda: u + SCALE * (v - u),
                lambda: torch.lerp(u, v, SCALE, out=out),
            ),
            "euler_step": (
                3,
                lambda: ops.euler_step(x, v, SIGMA, SIGMA_NEXT),
                lambda: x + d * v,
                lambda: torch.add(x, v, alpha=d, out=out),
            ),
            "guided euler_step": (
                4,
                lambda: ops.euler_step(x, v, SIGMA, SIGMA_NEXT, uncond=u, guidance_scale=SCALE),
                lambda: x + d * (u + SCALE * (v - u)),
                tuned_guided_step,
            ),
            "add_noise": (
                3,
                lambda: ops.add_noise(x, v, SIGMA),
                lambda: (1 - SIGMA) * x + SIGMA * v,
                lambda: torch.lerp(x, v, SIGMA, out=out),
            ),
            "blend": (4, lambda: ops.blend(self.x, WEIGHTS), lambda: w0 * x + w1 * v + w2 * u, tuned_blend),
            "route": (
                2,
                lambda: ops.route(self.x, self.index),
                lambda: torch.stack(self.x)[self.index, self.rows],
                tuned_route,
            ),
            "velocity_mse_with_grad": (3, lambda: ops.velocity_mse_with_grad(x, v), eager_mse, tuned_mse),
        }


def compiled_forms(case: Case) -> dict[str, Callable[..., Any]]:
    """The eager forms as functions of their tensors, compiled once for all sizes."""
    d, (w0, w1, w2) = SIGMA_NEXT - SIGMA, WEIGHTS

    def mse(x: Tensor, v: Tensor, u: Tensor, index: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        error = x.float() - v.float()
        return error.square().mean(1), (error * (2 / x.numel())).to(x.dtype)

    functions: dict[str, Callable[..., Any]] = {
        "guide": lambda x, v, u, index, rows: u + SCALE * (v - u),
        "euler_step": lambda x, v, u, index, rows: x + d * v,
        "guided euler_step": lambda x, v, u, index, rows: x + d * (u + SCALE * (v - u)),
        "add_noise": lambda x, v, u, index, rows: (1 - SIGMA) * x + SIGMA * v,
        "blend": lambda x, v, u, index, rows: w0 * x + w1 * v + w2 * u,
        "route": lambda x, v, u, index, rows: torch.stack([x, v, u])[index, rows],
        "velocity_mse_with_grad": mse,
    }
    return {name: torch.compile(f, dynamic=True) for name, f in functions.items()}


def seconds_per_call(run: Run, calls: int, device: torch.device) -> float:
    """By the clock that the module's docstring names."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            run()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1e3 / calls
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    begin = clock()
    for _ in range(calls):
        run()
    return (clock() - begin) / calls


def measure(contenders: dict[str, Run], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds per call of each contender, in interleaved rounds of at least 3 ms each."""
    calls = {}
    for name, run in contenders.items():
        seconds_per_call(run, 3, device)
        calls[name] = max(1, int(3e-3 / max(seconds_per_call(run, 5, device), 1e-7)))
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            times[name].append(seconds_per_call(run, calls[name], device))
    return times


def bench(args: argparse.Namespace) -> list[dict[str, Any]]:
    """All ops, sizes and dtypes; prints a row as it gets it."""
    device = torch.device(args.device)
    compiled = None if args.no_compile else compiled_forms(Case(64, torch.float32, device))
    rows = []
    print(
        f"{'op':24}{'dtype':>10}{'elements':>10}{'µs':>10}{'GB/s':>8}{'eager':>8}{'tuned':>8}{'compile':>9}"
    )
    with torch.no_grad():
        for dtype in (getattr(torch, name) for name in args.dtypes):
            for size in args.sizes:
                case = Case(size, dtype, device)
                for op, (moved, native, eager, tuned) in case.forms().items():
                    contenders: dict[str, Run] = {
                        "danceopd": native,
                        "eager": with_grad(eager),
                        "tuned": tuned,
                    }
                    if compiled is not None:
                        operands = (*case.x, case.index, case.rows)
                        contenders["compile"] = lambda f=compiled[op], o=operands: f(*o)
                    times = measure(contenders, args.rounds, device)
                    rows.append(row(op, dtype, case, moved, times))
                    show(rows[-1])
    return rows


def with_grad(run: Run) -> Run:
    """Eager autograd needs grad mode for the loss; the other ops do not care."""

    def inner() -> object:
        with torch.enable_grad():
            return run()

    return inner if run.__name__ == "eager_mse" else run


def row(op: str, dtype: torch.dtype, case: Case, moved: int, times: dict[str, list[float]]) -> dict[str, Any]:
    own = times["danceopd"]
    others = {name: t for name, t in times.items() if name != "danceopd"}
    return {
        "op": op,
        "dtype": str(dtype).removeprefix("torch."),
        "elements": case.x[0].numel(),
        "microseconds": {name: round(statistics.median(t) * 1e6, 3) for name, t in times.items()},
        "gb_per_s": round(moved * case.one / statistics.median(own) / 1e9, 2),
        "speedup_over": {
            name: round(statistics.median(a / b for a, b in zip(t, own, strict=True)), 3)
            for name, t in others.items()
        },
    }


def show(r: dict[str, Any]) -> None:
    over = {name: f"{value:.2f}x" for name, value in r["speedup_over"].items()}
    own = r["microseconds"]["danceopd"]
    print(
        f"{r['op']:24}{r['dtype']:>10}{r['elements']:>10}{own:>10.2f}{r['gb_per_s']:>8.1f}"
        f"{over['eager']:>8}{over['tuned']:>8}{over.get('compile', '-'):>9}",
        flush=True,
    )


def main() -> None:
    """Parse, time, print, store."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    add = parser.add_argument
    add("--sizes", type=int, nargs="+", default=[64, 65536, 1048576], help="elements per tensor")
    add("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16", "float16"])
    add("--rounds", type=int, default=21, help="interleaved rounds; the median counts")
    add("--no-compile", action="store_true", help="leave torch.compile out (it takes a while on a CPU)")
    add("--note", default="", help="kept with the results, e.g. what else the machine was doing")
    add("--out", type=Path, help="JSON file; default benchmarks/results/<device>-<date>.json")
    args = parser.parse_args()

    info = ops.build_info()
    device = torch.device(args.device)
    cpu = f"{platform.machine()}, {info.cpu_isa}"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu
    print(f"{device} ({name}), torch {torch.__version__}, {torch.get_num_threads()} threads")
    results = {
        "date": date.today().isoformat(),
        "device": str(device),
        "device_name": name,
        "threads": torch.get_num_threads(),
        "versions": {
            "danceopd": info.version,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "build": {"compiler": info.compiler, "cpu_isa": info.cpu_isa, "cuda_runtime": info.cuda_runtime},
        "note": args.note,
        "rows": bench(args),
    }
    out = args.out or Path(__file__).parent / "results" / f"{device.type}-{results['date']}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=1) + "\n")
    print(f"written to {out}")


if __name__ == "__main__":
    main()
