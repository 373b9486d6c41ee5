"""How it is told: rows, the table on the terminal, JSON, CSV and the plot."""

from __future__ import annotations

import csv
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

OWN, INTO, TUNED, COPY = "danceopd", "danceopd, out", "tuned", "copy"
Times = dict[str, list[float]]
Row = dict[str, Any]


def make_row(
    op: str,
    dtype: torch.dtype,
    size: int,
    elements: int,
    moves: int,
    times: Times,
    replays: Times,
    peaks: dict[str, int],
) -> Row:
    """What is stored of one op, dtype and size; times in microseconds, ratios within rounds."""
    moved = moves * elements * dtype.itemsize
    own = times[OWN]

    def over(name: str, measured: Times) -> float:
        # Who writes into preallocated memory races who does, and who allocates who allocates.
        mine = INTO if name == TUNED and INTO in measured else OWN
        return _short(_ratio(measured[name], measured[mine]))

    def contender(name: str) -> dict[str, Any]:
        low, _, high = _deciles(times[name])
        middle = statistics.median(times[name])
        told: dict[str, Any] = {
            "us": _us(middle),
            "us_p10": _us(low),
            "us_p90": _us(high),
            "gb_per_s": _short(moved / middle / 1e9),
            "peak_bytes": peaks.get(name),
        }
        if name in replays:
            told["graph_us"] = _us(statistics.median(replays[name]))
        return told

    rivals = [name for name in times if name not in (OWN, INTO, COPY)]
    row: Row = {
        "op": op,
        "dtype": str(dtype).removeprefix("torch."),
        "bytes_per_tensor": size,
        "elements": elements,
        "bytes_per_element": moves * dtype.itemsize,
        "rounds": len(own),
        "share_of_copy": _short(_ratio(times[COPY], own)),
        "speedup_over": {name: over(name, times) for name in rivals},
        "contenders": {name: contender(name) for name in times},
    }
    if OWN in replays:
        row["graph_share_of_copy"] = _short(_ratio(replays[COPY], replays[OWN])) if COPY in replays else None
        row["graph_speedup_over"] = {name: over(name, replays) for name in rivals if name in replays}
    return row


def _deciles(values: list[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    cuts = statistics.quantiles(values, n=10, method="inclusive")
    return cuts[0], cuts[4], cuts[8]


def _ratio(theirs: list[float], ours: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(theirs, ours, strict=True))


def _us(seconds: float) -> float:
    return _short(seconds * 1e6)


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def human(size: float) -> str:
    """A number of bytes in the largest unit that leaves a number of at least one."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} GiB"


def print_tables(rows: list[Row], console: Console) -> None:
    """One table per dtype, and below it in how many rows a rival is faster."""
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        some = [row for row in rows if row["dtype"] == dtype]
        rivals = list(dict.fromkeys(name for row in some for name in row["speedup_over"]))
        graphs = any("graph_us" in row["contenders"][OWN] for row in some)
        into = any(INTO in row["contenders"] for row in some)
        title = f"{dtype}: speed-up over each rival, in red where the rival is faster"
        legend = "tuned allocates nothing and steps in place: it races our call that does the same (out µs)"
        table = Table(title=title, caption=legend if into else None, box=box.SIMPLE, padding=(0, 1, 0, 0))
        timed = ("µs", "p10 - p90", "out µs") if into else ("µs", "p10 - p90")
        for name in ("op", "tensor", *timed, "B/elem", "GB/s", "of copy"):
            table.add_column(name, justify="left" if name == "op" else "right", no_wrap=True)
        for name in rivals:
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("peak", justify="right", no_wrap=True)
        if graphs:
            for name in ("graph µs", "of copy", *rivals):
                table.add_column(name, justify="right", no_wrap=True)
        previous = None
        for row in some:
            table.add_row(*_cells(row, rivals, graphs, into, row["op"] != previous))
            previous = row["op"]
        console.print(table)
        for name in rivals:
            slower = sum(row["speedup_over"].get(name, 1.0) < 1.0 for row in some)
            console.print(f"slower than {name} in {slower} of {len(some)} rows")


def _cells(row: Row, rivals: list[str], graphs: bool, into: bool, names_op: bool) -> list[str]:
    own = row["contenders"][OWN]
    cells = [
        row["op"] if names_op else "",
        human(row["bytes_per_tensor"]),
        f"{own['us']:.4g}",
        f"{own['us_p10']:.4g} - {own['us_p90']:.4g}",
        *([f"{row['contenders'][INTO]['us']:.4g}" if INTO in row["contenders"] else "-"] if into else []),
        str(row["bytes_per_element"]),
        f"{own['gb_per_s']:.3g}",
        f"{row['share_of_copy']:.0%}",
        *(_speedup(row["speedup_over"].get(name)) for name in rivals),
        human(own["peak_bytes"]),
    ]
    if graphs:
        share, over = row.get("graph_share_of_copy"), row.get("graph_speedup_over", {})
        cells += [
            f"{own['graph_us']:.4g}" if "graph_us" in own else "-",
            "-" if share is None else f"{share:.0%}",
            *(_speedup(over.get(name)) for name in rivals),
        ]
    return cells


def _speedup(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if value >= 1.0 else f"[red]{value:.2f}[/red]"


def store(results: dict[str, Any], path: Path) -> list[Path]:
    """Write the JSON, and beside it one CSV line per row and contender."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    about = {"date": results["date"], "device": results["device_name"], **results["versions"]}
    lines = [
        {
            **about,
            **{key: value for key, value in row.items() if not isinstance(value, dict)},
            "contender": name,
            **told,
            "danceopd_speedup": row["speedup_over"].get(name),
            "danceopd_graph_speedup": row.get("graph_speedup_over", {}).get(name),
        }
        for row in results["rows"]
        for name, told in row["contenders"].items()
    ]
    table = path.with_suffix(".csv")
    with table.open("w", newline="", encoding="utf-8") as file:
        columns = list(dict.fromkeys(column for line in lines for column in line))
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(lines)
    return [path, table]


def draw(results: dict[str, Any], path: Path) -> list[Path]:
    """One picture per dtype: GB/s over the size of a tensor, a panel per op.

    Raises:
        ModuleNotFoundError: without matplotlib.
    """
    from matplotlib.figure import Figure

    drawn = []
    rows = results["rows"]
    colours = {OWN: "C3", INTO: "C4", "eager": "C0", "tuned": "C2", "compile": "C1", COPY: "0.6"}
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        some = [row for row in rows if row["dtype"] == dtype]
        names = list(dict.fromkeys(row["op"] for row in some))
        columns = min(4, len(names))
        lines = -(-len(names) // columns)
        figure = Figure(figsize=(3.2 * columns, 2.5 * lines + 1.2), layout="constrained")
        panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flatten()
        for place, (panel, op) in enumerate(zip(panels, names, strict=False)):
            own = [row for row in some if row["op"] == op]
            for name in sorted(own[0]["contenders"], key=list(colours).index):
                sizes = [row["bytes_per_tensor"] for row in own]
                points = [row["contenders"][name]["gb_per_s"] for row in own]
                style = "--" if name == COPY else "-"
                panel.plot(sizes, points, style, color=colours[name], label=name)
            panel.set_title(op)
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
            panel.xaxis.set_major_formatter(lambda size, _: human(size))
            lowest = place + columns >= len(names)
            panel.tick_params(axis="x", labelrotation=45, labelbottom=lowest)
            panel.grid(alpha=0.3)
        for panel in panels[len(names) :]:
            panel.set_visible(False)
        figure.supylabel("GB/s that have to be moved")
        figure.suptitle(f"{dtype} over bytes per tensor: {results['device_name']}, {results['date']}")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
        drawn.append(path.with_name(f"{path.stem}-{dtype}.png"))
        figure.savefig(drawn[-1], dpi=120)
    return drawn
