"""The demo's scores as tables for a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

Row = tuple[str, str, str | None]


def print_scoreboard(console: Console, metrics: dict[str, Any]) -> None:
    """One table per setting: models across, grounds and categories down, the best of each row in green."""
    for setting in metrics["settings"].values():
        console.print(_table(setting))
        console.print(_verdict(setting))


def rows(setting: dict[str, Any]) -> list[Row]:
    """(title, ground, category) of a setting's rows; the ground's own mean has no category."""
    found: list[Row] = []
    first = next(iter(setting["scores"].values()))
    for ground, categories in first["categories"].items():
        found.append((ground, ground, None))
        found.extend((category, ground, category) for category in categories)
    return found


def value(scores: dict[str, Any], ground: str, category: str | None) -> float:
    """One cell of the table."""
    return float(scores["grounds"][ground] if category is None else scores["categories"][ground][category])


def _table(setting: dict[str, Any]) -> Table:
    table = Table(title=f"{setting['name']}: % of tasks fulfilled, scored exactly", title_justify="left")
    table.add_column("")
    scores = setting["scores"]
    for name in scores:
        table.add_column(name, justify="right")
    table.add_row("[bold]mean[/]", *_cells([s["mean"] for s in scores.values()]), end_section=True)
    cells = rows(setting)
    for place, (title, ground, category) in enumerate(cells):
        last = place + 1 == len(cells) or cells[place + 1][1] != ground
        label = f"[bold]{title}[/]" if category is None else f"  {title}"
        shares = [value(s, ground, category) for s in scores.values()]
        table.add_row(label, *_cells(shares), end_section=last)
    return table


def _cells(shares: list[float]) -> list[str]:
    best = max(shares)
    return [f"[bold green]{100 * s:.0f}[/]" if s == best and s > 0 else f"{100 * s:.0f}" for s in shares]


def _verdict(setting: dict[str, Any]) -> str:
    verdict = setting["verdict"]
    kept = ", ".join(
        f"{100 * share:.0f} % on {ground}" for ground, share in verdict["kept_of_expert"].items()
    )
    outcome = (
        "beats every other model" if verdict["beats_all"] else f"does not beat '{verdict['best_other']}'"
    )
    seconds = setting["seconds"]
    return (
        f"The student keeps {kept} of its experts' scores, and {outcome} on the mean over the grounds. "
        f"Trained in {seconds['training']:.0f} s, scored in {seconds['scoring']:.0f} s.\n"
    )
