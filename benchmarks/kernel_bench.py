"""Time the ops against eager torch, hand-tuned eager torch, torch.compile, and a copy of as many bytes.

    python benchmarks/kernel_bench.py                  # the CPU: 4 KiB to 64 MiB per tensor, some minutes
    python benchmarks/kernel_bench.py --device cuda    # the GPU: up to 1 GiB, and replays of CUDA graphs
    python benchmarks/kernel_bench.py --quick          # within a minute: three sizes, without torch.compile

Prints a table and writes benchmarks/results/<device>-<date>.json, a .csv beside it, and pictures where
matplotlib is installed (`pip install ".[bench]"`).

In each round the contenders take turns, so a slow spell of the machine hits all of them; a time is the
median over rounds, a ratio the median of the ratios within rounds. A row that takes long has fewer rounds.
"Eager" is what pipelines, schedulers and trainers write, "tuned" what a careful author writes without
kernels: fused torch calls into preallocated results, and steps that write over the sample. Against tuned code
an op that takes `out` does the same ("out µs" in the table, "danceopd, out" in the files); all other times
are of calls that allocate their result. GB/s counts the bytes that have to be moved, every operand and result
once, whatever a contender really moves; "of copy" is the time of a copy of as many bytes by the time of the
op. "Peak" is the most memory that one call holds beyond its operands.

On one CPU thread the clock is that thread's CPU time, which other processes do not prolong by taking the core
away; otherwise it is wall time. Small tensors stay in the CPU's caches. On CUDA events give the time,
launches included, and the operands go round through more memory than the L2 cache holds; the columns after
"graph µs" are replays of CUDA graphs, without the launches' cost on the host.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import re
from datetime import date
from pathlib import Path
from typing import Any

import diffusers
import torch
from opbench import measure, report
from opbench.operands import Operands, make_operands
from opbench.table import TABLE, Entry, Form
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from danceopd import ops

RESULTS = Path(__file__).parent / "results"
DTYPES = ("float32", "bfloat16", "float16")
SIZES = {
    "cpu": "4K 16K 64K 256K 1M 4M 16M 64M",
    "cuda": "4K 16K 64K 256K 1M 4M 16M 64M 256M 1G",
}
QUICK = {"cpu": "4K 256K 4M", "cuda": "4K 1M 64M"}
WIDTH = 128


def bytes_of(text: str) -> int:
    """A size as people write it: 512, 4K, 64M, 1G."""
    match = re.fullmatch(r"([1-9]\d*)([KMG]?)", text.upper())
    if match is None:
        raise argparse.ArgumentTypeError(f"the size {text!r} is not a number of bytes such as 4K, 64M or 1G.")
    return int(match[1]) * 1024 ** " KMG".index(match[2] or " ")


def device_of(text: str) -> torch.device:
    """A device that this machine has and the benchmark can time."""
    try:
        device = torch.device(text)
    except RuntimeError:
        device = torch.device("meta")
    count = {"cpu": 1, "cuda": torch.cuda.device_count()}.get(device.type, 0)
    if (device.index or 0) >= count:
        raise argparse.ArgumentTypeError(f"the device {text!r} is not here; pass cpu or a cuda device.")
    return device


def forms_of(entry: Entry, compiles: bool) -> dict[str, Form]:
    """The contenders that compute; the compiled one serves all sizes."""
    forms = {report.OWN: entry.danceopd}
    if entry.into:
        forms[report.INTO] = entry.into
    forms |= {"eager": entry.eager, report.TUNED: entry.tuned}
    if compiles:

        def compiler(function: Form) -> Form:
            return torch.compile(function, dynamic=True)

        forms["compile"] = entry.compiled(compiler) if entry.compiled else compiler(entry.eager)
    return forms


def copy_form(entry: Entry, sets: list[Operands]) -> tuple[Form, list[tuple[torch.Tensor, torch.Tensor]]]:
    """A copy that reads and writes as many bytes as the op has to."""
    like, half = sets[0].x, max(1, entry.moves * sets[0].x.numel() // 2)
    source, target = (torch.zeros(len(sets), half, dtype=like.dtype, device=like.device) for _ in range(2))
    return lambda pair: pair[0].copy_(pair[1]), list(zip(target, source, strict=True))


def bench_one(
    entry: Entry, forms: dict[str, Form], size: int, dtype: torch.dtype, rounds: int, device: torch.device
) -> report.Row:
    """One row: an op at one size and dtype, all contenders."""
    count = measure.sets_past_the_l2(entry.moves * size, device)
    sets = make_operands(count, size, dtype, device)
    copy, pairs = copy_form(entry, sets)
    seconds = 5e-3 if rounds > 5 else 1e-3
    with torch.set_grad_enabled(entry.grad):
        timers = {name: measure.timer(form, sets, device) for name, form in forms.items()}
        timers[report.COPY] = measure.timer(copy, pairs, device)
        times = measure.take_turns(timers, rounds, seconds)
        peaks = {name: measure.peak_bytes(form, sets[0], device) for name, form in forms.items()}
        replays, problems = {}, {}
        if device.type == "cuda":
            del timers  # and the results that they keep
            graphs = {}
            for name, form in {**forms, report.COPY: copy}.items():
                try:
                    graphs[name] = measure.graph_timer(form, pairs if name == report.COPY else sets)
                except RuntimeError as error:  # not everything can be captured; the row says what could not
                    problems[name] = str(error).splitlines()[0]
            replays = measure.take_turns(graphs, rounds, seconds)
    row = report.make_row(entry.name, dtype, size, sets[0].x.numel(), entry.moves, times, replays, peaks)
    return row | {"graph_problems": problems} if problems else row


def bench(args: argparse.Namespace, device: torch.device, console: Console) -> list[report.Row]:
    """All ops, dtypes and sizes; what does not fit is left out, and Ctrl-C keeps what has been measured."""
    entries = [entry for entry in TABLE if not args.ops or entry.op in args.ops]
    rows: list[report.Row] = []
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=len(entries) * len(args.dtypes) * len(args.sizes))
        try:
            for name, entry in itertools.product(args.dtypes, entries):
                forms = forms_of(entry, args.compile)
                for size in args.sizes:
                    what = f"{entry.name}, {name}, {report.human(size)}"
                    progress.update(task, description=what)
                    try:
                        rows.append(bench_one(entry, forms, size, getattr(torch, name), args.rounds, device))
                    except torch.OutOfMemoryError:
                        console.print(f"left out: {what} per tensor does not fit the memory")
                    progress.advance(task)
        except KeyboardInterrupt:
            console.print("stopped; what has been measured is kept")
    return rows


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--device", type=device_of, default="cpu", help="cpu, cuda or cuda:N")
    add("--quick", action="store_true", help="fewer sizes, dtypes and rounds, and no torch.compile")
    add("--ops", nargs="+", help="these alone", choices=sorted({entry.op for entry in TABLE}))
    add("--sizes", type=bytes_of, nargs="+", help="bytes per tensor: 4K 64M 1G")
    add("--dtypes", nargs="+", choices=DTYPES)
    add(
        "--rounds", type=int, help="rounds in which the contenders take turns; 5 do for a row that takes long"
    )
    add("--compile", action=argparse.BooleanOptionalAction, help="whether torch.compile takes part")
    add("--note", default="", help="kept with the results, e.g. what else the machine was doing")
    add("--out", type=Path, help="JSON file; default benchmarks/results/<device>-<date>.json")
    args = parser.parse_args(argv)
    kind = "cuda" if args.device.type == "cuda" else "cpu"
    args.sizes = args.sizes or [bytes_of(size) for size in (QUICK if args.quick else SIZES)[kind].split()]
    args.dtypes = args.dtypes or list(DTYPES[:2] if args.quick else DTYPES)
    args.rounds = args.rounds or (5 if args.quick else 21)
    args.compile = not args.quick if args.compile is None else args.compile
    args.out = args.out or RESULTS / f"{kind}-{date.today()}.json"
    return args


def main(argv: list[str] | None = None) -> None:
    """Parse, time, print, store."""
    args, console = parse(argv), Console()
    console.width = max(console.width, WIDTH)  # of a row; a narrower terminal breaks the lines
    info = ops.build_info()
    on_cuda = args.device.type == "cuda"
    if on_cuda:
        torch.cuda.set_device(args.device)
    name = torch.cuda.get_device_name() if on_cuda else f"{_processor()}, {info.cpu_isa}"
    threads = torch.get_num_threads()
    console.print(f"{args.device} ({name}), torch {torch.__version__}, {threads} CPU threads")
    if not args.compile:
        console.print("torch.compile is left out; --compile takes it in")
    results: dict[str, Any] = {
        "date": str(date.today()),
        "device": str(args.device),
        "device_name": name,
        "threads": threads,
        "versions": {
            "danceopd": info.version,
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "python": platform.python_version(),
        },
        "build": {"compiler": info.compiler, "cpu_isa": info.cpu_isa, "cuda_runtime": info.cuda_runtime},
        "rounds": args.rounds,
        "note": args.note,
        "rows": bench(args, args.device, console),
    }
    if not results["rows"]:
        return
    report.print_tables(results["rows"], console)
    written = report.store(results, args.out)
    try:
        written += report.draw(results, args.out)
    except ModuleNotFoundError as error:
        console.print(f'no plot: {error.name} is missing; pip install ".[bench]"', markup=False)
    console.print(f"written: {', '.join(map(str, written))}", soft_wrap=True)


def _processor() -> str:
    """The model's name where Linux tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        match = re.search(r"^model name\s*: (.+)$", cpuinfo.read_text(), re.MULTILINE)
        if match:
            return match[1]
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
