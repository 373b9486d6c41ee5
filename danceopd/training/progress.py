"""What a person sees while a run trains: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from danceopd.training.callbacks import Callback, Trainer
from danceopd.training.result import TrainResult

_SECONDS_BETWEEN_LINES = 10.0
_MEMORY = 0.9


class ProgressReport(Callback):
    """Progress on stderr: the loss of each route, samples per second and the time left, all smoothed.

    Losses are smoothed over about 10 updates. The time left counts the clock between updates, so that
    checkpoints and pictures have their share in it.
    """

    def __init__(self) -> None:
        self._last = self._step = 0
        self._losses: dict[str, float] = {}
        self._whole: dict[str, float] = {}
        self._began = self._line_at = 0.0
        self._first = 0
        self._shown = False
        self._bar: Progress | None = None

    def on_start(self, trainer: Trainer) -> None:
        """Show the bar, where stderr is a terminal."""
        self._first = self._step = trainer.step
        self._last = trainer.config.max_steps
        self._began, self._shown = time.monotonic(), trainer.config.progress
        if self._shown and sys.stderr.isatty():
            # The text comes last: a narrow terminal cuts off what it has no room for.
            columns = (BarColumn(bar_width=20), MofNCompleteColumn(), TextColumn("{task.fields[text]}"))
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task("train", total=self._last, completed=self._first, text="starting")
            self._bar.start()

    def on_update(self, line: Mapping[str, Any]) -> None:
        """Show the metrics of one update."""
        self._step = line["step"]
        _follow(self._losses, line["losses"])
        _follow(self._whole, {"loss": line["loss"], "rate": line["time"]["samples_per_second"]})
        if self._bar is not None:
            self._bar.update(self._task, completed=self._step, text=self._text())
        elif self._shown and (time.monotonic() >= self._line_at or self._step == self._last):
            self._line_at = time.monotonic() + _SECONDS_BETWEEN_LINES
            print(f"step {self._step}/{self._last}  {self._text()}", file=sys.stderr, flush=True)

    def on_end(self, result: TrainResult) -> None:
        """Leave the bar as it is."""
        self._stop()

    def on_error(self, error: BaseException) -> None:
        """Leave the bar as it is."""
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _text(self) -> str:
        routes = [f"{name} {loss:.4f}" for name, loss in sorted(self._losses.items())]
        seconds = (time.monotonic() - self._began) / (self._step - self._first)
        left = timedelta(seconds=round(seconds * (self._last - self._step)))
        speed = f"{self._whole['rate']:.1f} samples/s"
        return "  ".join([f"{left} left", speed, f"loss {self._whole['loss']:.4f}", *routes])


def _follow(smooth: dict[str, float], values: Mapping[str, float]) -> None:
    for name, value in values.items():
        smooth[name] = value + _MEMORY * (smooth.get(name, value) - value)
