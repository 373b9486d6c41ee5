"""What a person sees while a run trains: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from typing_extensions import Self


_SECONDS_BETWEEN_LINES = 10.0
_MEMORY = 0.9


class ProgressReport:
    """Progress on stderr, with the loss of each route and samples per second, smoothed over about 10 updates.

    Args:
        first: updates done before.
        last: updates of the whole run.
        shown: False reports nothing.
    """

    def __init__(self, first: int, last: int, *, shown: bool) -> None:
        self._last = last
        self._shown = shown
        self._losses: dict[str, float] = {}
        self._whole: dict[str, float] = {}
        self._line_at = 0.0
        columns = (
            TextColumn("{task.fields[text]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self._bar = Progress(
            *columns, console=Console(stderr=True), disable=not (shown and sys.stderr.isatty())
        )
        self._task = self._bar.add_task("train", total=last, completed=first, text="starting")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, line: Mapping[str, Any]) -> None:
        """Show the metrics of one update."""
        self._follow(self._losses, line["losses"])
        self._follow(self._whole, {"loss": line["loss"], "rate": line["time"]["samples_per_second"]})
        if not self._shown:
            return
        step = line["step"]
        if self._bar.disable:
            if time.monotonic() >= self._line_at or step == self._last:
                self._line_at = time.monotonic() + _SECONDS_BETWEEN_LINES
                print(f"step {step}/{self._last}  {self._text()}", file=sys.stderr, flush=True)
        else:
            self._bar.update(self._task, completed=step, text=self._text())

    def _text(self) -> str:
        routes = [f"{name} {loss:.4f}" for name, loss in sorted(self._losses.items())]
        return "  ".join([f"loss {self._whole['loss']:.4f}", *routes, f"{self._whole['rate']:.1f} samples/s"])

    @staticmethod
    def _follow(smooth: dict[str, float], values: Mapping[str, float]) -> None:
        for name, value in values.items():
            smooth[name] = value + _MEMORY * (smooth.get(name, value) - value)
