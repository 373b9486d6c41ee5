"""Metrics and pictures to TensorBoard, Weights & Biases and Trackio, through accelerate's trackers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import numpy as np
import yaml
from PIL import Image

from danceopd.files import write_whole
from danceopd.settings import ConfigError
from danceopd.training.callbacks import Callback, Trainer
from danceopd.training.config import as_mapping
from danceopd.training.result import TrainResult

_PROJECT: Final = "danceopd"
_NAME: Final = ".tracking-name"  # file that keeps what a tracker knows the run by


class Trackers(Callback):
    """Sends each line of metrics and each picture under its own step, also when a run resumes.

    A resumed run goes on as the same run of the tracker. What a killed process has reported past its last
    checkpoint is reported again, with the same values; TensorBoard drops the first ones.

    Args:
        names: of trackers: tensorboard, wandb, trackio.

    Raises:
        ConfigError: a tracker's package is not installed.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(dict.fromkeys(names))
        for name in self._names:
            if find_spec(name) is None:
                raise ConfigError(
                    f"report_to names '{name}', but its package is not installed: pip install {name}."
                )
        self._trackers: dict[str, Any] = {}

    def on_start(self, trainer: Trainer) -> None:
        """Open the trackers and send them the settings."""
        from accelerate import PartialState

        PartialState(cpu=trainer.family.device.type == "cpu")  # accelerate's loggers insist on it
        self._every = trainer.config.log_every
        settings = as_mapping(trainer.run)
        for name in self._names:
            tracker = _make(name, trainer)
            tracker.start()
            self._trackers[name] = tracker
            if name == "tensorboard":
                # Its table of hyperparameters takes no lists, and a resumed run would be a second line in it.
                text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
                tracker.log({"config": f"```yaml\n{text}\n```"}, step=trainer.step)
            else:
                tracker.store_init_configuration(settings)

    def on_update(self, line: Mapping[str, Any]) -> None:
        """Send the numbers of an update that metrics.jsonl has too."""
        if line["step"] % self._every == 0:
            values = dict(_numbers(line))
            for tracker in self._trackers.values():
                tracker.log(values, step=line["step"])

    def on_picture(self, step: int, path: Path) -> None:
        """Send a picture."""
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        for name, tracker in self._trackers.items():
            _send(name, tracker, "validation/grid", pixels, step)

    def on_end(self, result: TrainResult) -> None:
        """Close the trackers."""
        self._finish()

    def on_error(self, error: BaseException) -> None:
        """Close those that are open."""
        self._finish()

    def _finish(self) -> None:
        while self._trackers:
            _, tracker = self._trackers.popitem()
            tracker.finish()


def _make(name: str, trainer: Trainer) -> Any:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    folder, kind = trainer.output_dir, LOGGER_TYPE_TO_CLASS[name]
    if name == "tensorboard":
        return kind(name, logging_dir=folder, purge_step=trainer.step + 1)
    project = os.environ.get(f"{name.upper()}_PROJECT", _PROJECT)
    run = _name_of(folder)
    if name == "wandb":
        return kind(project, name=folder.name, id=run, resume="allow", dir=str(folder))
    return kind(project, name=run, resume="allow")


def _name_of(folder: Path) -> str:
    """The same for every resumption of a run, and another for every other run."""
    path = folder / _NAME
    if not path.exists():
        write_whole(path, f"{folder.name}-{uuid4().hex[:8]}".encode())
    return path.read_text(encoding="utf-8")


def _numbers(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Single numbers as ``train/loss``, those per route as ``losses/ROUTE``."""
    for key, value in line.items():
        if isinstance(value, (int, float)) and key != "step":
            yield f"train/{key}", value
        elif isinstance(value, Mapping):
            for name, number in value.items():
                if isinstance(number, (int, float)):
                    yield f"{key}/{name}", number


def _send(name: str, tracker: Any, key: str, pixels: np.ndarray[Any, Any], step: int) -> None:
    if name == "tensorboard":
        tracker.log_images({key: pixels[None]}, step=step, dataformats="NHWC")
    elif name == "wandb":
        tracker.log_images({key: [pixels]}, step=step)
    else:  # accelerate knows no pictures of this one
        import trackio

        tracker.log({key: trackio.Image(pixels)}, step=step)
