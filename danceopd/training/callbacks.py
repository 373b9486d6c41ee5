"""What may watch a run: called between its updates, with nothing in hand that changes them.

What an update draws follows from (seed, step), so a callback may use torch's generators as it likes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from danceopd.families import Examples, Family, Prepared, Teacher
from danceopd.flow import VelocityField
from danceopd.training.config import RunConfig, TrainConfig
from danceopd.training.result import TrainResult
from danceopd.training.weights import RunningMean, TrainedWeights


class Trainer(Protocol):
    """What a callback may know of the run; see the attributes of `danceopd.training.DanceOPDTrainer`.

    Attributes:
        family: the model family.
        config: the numbers of the run.
        run: the same with family, teachers and routes, as the run's config.yaml holds them.
        output_dir: the run's folder.
        route_names: what metrics call the routes.
        data: the rows of each route.
        prepared: the same, encoded.
        made_of: content of its files and rows, and versions, see `danceopd.training.provenance`.
        asked: the teachers that some route asks.
        teachers: their fields, in this order.
        field: the student under its guidance scale.
        weights: what is trained.
        mean: the running mean of the weights, None where the run keeps none.
        step: updates done.
        callbacks: all callbacks of the run as one.
    """

    family: Family
    config: TrainConfig
    run: RunConfig
    output_dir: Path
    route_names: list[str]
    data: list[Examples]
    prepared: Sequence[Prepared]
    made_of: Mapping[str, Any]
    asked: list[Teacher]
    teachers: list[VelocityField]
    field: VelocityField
    weights: TrainedWeights
    mean: RunningMean | None
    step: int
    callbacks: Callbacks


class Callback:
    """Base class of callbacks; each method does nothing unless it is overridden.

    A method that raises ends the run like any other error: the state is saved, and the same command goes on.
    """

    def on_start(self, trainer: Trainer) -> None:
        """The run is about to start or to continue; its rows are encoded, its folder is locked."""

    def on_update(self, line: Mapping[str, Any]) -> None:
        """An update is done; `line` is what metrics.jsonl says about it."""

    def on_picture(self, step: int, path: Path) -> None:
        """A picture of the student after `step` updates was written to `path`."""

    def on_save(self, path: Path) -> None:
        """A checkpoint is whole; `path` is its folder."""

    def on_end(self, result: TrainResult) -> None:
        """The run has come to its end, or was stopped by a signal; everything is written."""

    def on_error(self, error: BaseException) -> None:
        """The run ends by `error`, perhaps before `on_start` came; the state is saved where it could be."""


class Callbacks(Callback):
    """Several callbacks as one, called in their order, and at the end in the reverse one, like contexts."""

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        self._callbacks = list(callbacks)

    def on_start(self, trainer: Trainer) -> None:
        """Tell each."""
        self._tell(lambda callback: callback.on_start(trainer))

    def on_update(self, line: Mapping[str, Any]) -> None:
        """Tell each."""
        self._tell(lambda callback: callback.on_update(line))

    def on_picture(self, step: int, path: Path) -> None:
        """Tell each."""
        self._tell(lambda callback: callback.on_picture(step, path))

    def on_save(self, path: Path) -> None:
        """Tell each."""
        self._tell(lambda callback: callback.on_save(path))

    def on_end(self, result: TrainResult) -> None:
        """Tell each, the last one first."""
        for callback in reversed(self._callbacks):
            callback.on_end(result)

    def on_error(self, error: BaseException) -> None:
        """Tell each, also when one fails: the error that came first must not be lost behind what followed."""
        for callback in reversed(self._callbacks):
            try:
                callback.on_error(error)
            except Exception as second:
                reason = " ".join(str(second).split())
                print(
                    f"danceopd: {type(callback).__name__} failed after the run had: {reason}", file=sys.stderr
                )

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Tell each of an error that leaves the block."""
        try:
            yield
        except BaseException as error:
            self.on_error(error)
            raise

    def _tell(self, call: Callable[[Callback], None]) -> None:
        for callback in self._callbacks:
            call(callback)
