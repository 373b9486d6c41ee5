"""report.html of a run: one file that opens without a network, made from what the run's folder holds."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

from PIL import Image

from danceopd.page import Chart, bar_chart, data_uri, line_chart, write_page
from danceopd.settings import ConfigError
from danceopd.training.callbacks import Callback, Trainer
from danceopd.training.checkpoint import list_checkpoints
from danceopd.training.config import RunConfig
from danceopd.training.config_file import load_run_config
from danceopd.training.metrics import read_metrics
from danceopd.training.provenance import PROVENANCE
from danceopd.training.result import TrainResult
from danceopd.training.routes import name_routes
from danceopd.training.run_folder import CHECKPOINTS, CONFIG, GRIDS, METRICS

REPORT: Final = "report.html"
_SCORES: Final = "scores"  # scores.json is the student's, scores-NAME.json another model's
_MOST_PICTURES: Final = 6
_WIDEST: Final = 1400  # pixels of a picture
_STEP: Final = re.compile(r"step-(\d{8,})")
_ENOUGH: Final = 10  # lines of metrics that a beginning and an end can be told apart in

Line = Mapping[str, Any]


class RunReport(Callback):
    """Leaves report.html in the run's folder, however the run ends."""

    def __init__(self) -> None:
        self._folder: Path | None = None

    def on_start(self, trainer: Trainer) -> None:
        """Note where the run is."""
        self._folder = trainer.output_dir

    def on_end(self, result: TrainResult) -> None:
        """Write the report."""
        self._write(None)

    def on_error(self, error: BaseException) -> None:
        """Write what there is until here."""
        self._write(" ".join(str(error).split()) or type(error).__name__)

    def _write(self, ended_by: str | None) -> None:
        if self._folder is None:
            return
        try:
            write_run_report(self._folder, ended_by=ended_by)
        except Exception as error:
            # Whatever it is: the weights are safe, and `danceopd report` writes it, or shows what is wrong.
            reason = " ".join(str(error).split())
            print(f"danceopd: no report was written: {type(error).__name__}: {reason}", file=sys.stderr)


class _Route(NamedTuple):
    name: str
    teacher: str
    data: str
    weight: float
    samples: int
    first: float | None
    last: float | None


class _Picture(NamedTuple):
    step: int
    uri: str
    text: str


def write_run_report(folder: Path, *, ended_by: str | None = None) -> Path:
    """Write report.html into a run's folder, whether the run has ended or not, and return its path.

    Args:
        folder: an output_dir. Pictures of `danceopd.training.grids` in it are put into the page, and scores
            that ``danceopd eval`` has written to scores.json, and of other models to scores-NAME.json.
        ended_by: what the run died of.

    Raises:
        ConfigError: `folder` is not the folder of a run, or its metrics are damaged.
        OSError: the report cannot be written.
    """
    if not (folder / CONFIG).is_file():
        raise ConfigError(
            f"'{folder}' is not the folder of a run: it has no {CONFIG}; name a run's output_dir."
        )
    config = load_run_config(folder / CONFIG)
    lines = _lines(folder / METRICS)
    saved = [int(path.name.partition("-")[2]) for path in list_checkpoints(folder / CHECKPOINTS)]
    return write_page(
        folder / REPORT,
        __package__,
        "report.html.j2",
        name=folder.absolute().name,
        ended_by=ended_by,
        step=max([*saved, *(line["step"] for line in lines)], default=0),
        config=config,
        tiles=_tiles(lines),
        routes=_routes(config, lines),
        samples="samples" if _all_are_there(lines) else "samples in logged updates",
        pictures=_pictures(folder / GRIDS),
        scores=_scores(folder),
        loss=loss_chart(lines) if lines else None,
        curves=_curves(lines) if lines else [],
        histograms=_histograms(lines),
        settings=(folder / CONFIG).read_text(encoding="utf-8"),
        versions=_versions(folder),
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )


def _tiles(lines: Sequence[Line]) -> dict[str, str]:
    if not lines:
        return {}
    seconds = _mean([line["time"]["seconds"] for line in lines]) * lines[-1]["step"]
    about = "" if _all_are_there(lines) else "about "
    ends = _ends(lines)
    tiles = {
        "updates": f"{lines[-1]['step']:,}",
        # Counted, since the config does not know over how many processes a run was spread.
        "samples": f"{lines[-1]['step'] * sum(lines[-1]['samples'].values()):,}",
        "time in updates": f"{about}{timedelta(seconds=round(seconds))}",
        "samples/s": f"{_mean([line['time']['samples_per_second'] for line in ends[-1]]):.3g}",
    }
    labels = ["loss, first tenth", "loss, last tenth"] if len(ends) == 2 else ["loss"]
    losses = [f"{_mean([line['loss'] for line in part]):.4g}" for part in ends]
    return tiles | dict(zip(labels, losses, strict=True))


def _lines(path: Path) -> list[Line]:
    """The lines of metrics, none where nothing was trained yet."""
    try:
        lines: list[Line] = list(read_metrics(path)) if path.is_file() else []
        if not all({"step", "loss", "losses", "samples", "time"} <= line.keys() for line in lines):
            raise ValueError("a line is not of an update")
    except (ValueError, AttributeError) as error:
        raise ConfigError(
            f"'{path}' cannot be read ({error}): delete the lines in it that no training wrote."
        ) from None
    return lines


def _all_are_there(lines: Sequence[Line]) -> bool:
    """Whether every update has a line, so that what is summed over lines is that of the run."""
    return not lines or len(lines) == lines[-1]["step"]


def _ends(lines: Sequence[Line]) -> list[Sequence[Line]]:
    """The first and the last tenth, or all where they are few."""
    if len(lines) < _ENOUGH:
        return [lines]
    part = max(5, len(lines) // 10)
    return [lines[:part], lines[-part:]]


def _routes(config: RunConfig, lines: Sequence[Line]) -> list[_Route]:
    ends = _ends(lines)
    found = []
    for name, route in zip(name_routes(config.routes), config.routes, strict=True):
        losses = [[line["losses"][name] for line in part if name in line["losses"]] for part in ends]
        first, last = (_mean(losses[place]) if losses[place] else None for place in (0, -1))
        samples = sum(line["samples"].get(name, 0) for line in lines)
        found.append(_Route(name, route.teacher, str(route.data), route.weight, samples, first, last))
    return found


def loss_chart(lines: Sequence[Line]) -> Chart:
    """The loss of each route over the updates, of the lines of metrics.jsonl, at least one."""
    routes = sorted({route for line in lines for route in line["losses"]})
    series = {
        route: [(line["step"], line["losses"][route]) for line in lines if route in line["losses"]]
        for route in routes
    }
    return line_chart("Loss per route", series, logarithmic=True, y_label="what updates minimise")


def _curves(lines: Sequence[Line]) -> list[Chart]:
    def one(title: str, values: list[float], **how: Any) -> Chart:
        steps = [line["step"] for line in lines]
        return line_chart(title, {title: list(zip(steps, values, strict=True))}, **how)

    return [
        one("Gradient norm", [line["grad_norm"] for line in lines], band=True, y_label="before clipping"),
        one("Learning rate", [line["learning_rate"] for line in lines]),
        one("Speed", [line["time"]["samples_per_second"] for line in lines], band=True, y_label="samples/s"),
        one("Noise level queried", [line["sigma"] for line in lines], band=True, y_label="mean sigma"),
    ]


def _histograms(lines: Sequence[Line]) -> dict[str, list[Chart]]:
    """By route: how often each noise level was asked, and the error there at first and at last."""
    told = [line for line in lines if "histograms" in line]
    if not told:
        return {}
    ends = _ends(told)
    labels = ["first tenth", "last tenth"] if len(ends) == 2 else ["whole run"]
    asked = "states asked" if _all_are_there(lines) else "states asked in logged updates"
    charts = {}
    for route in sorted({route for line in told for route in line["histograms"]}):
        count = _binned(told, route, "count")
        errors = {}
        for label, part in zip(labels, ends, strict=True):
            pairs = zip(_binned(part, route, "error"), _binned(part, route, "count"), strict=True)
            errors[label] = [error / max(number, 1) for error, number in pairs]
        charts[route] = [
            bar_chart(f"{route}: {asked}", {"states": count}, x_label="sigma, from clean to noise"),
            bar_chart(
                f"{route}: error", errors, x_label="sigma, from clean to noise", y_label="mean squared error"
            ),
        ]
    return charts


def _binned(lines: Sequence[Line], route: str, key: str) -> list[float]:
    """The sum of a route's histograms; of lines without it, nothing."""
    found = [line["histograms"][route][key] for line in lines if route in line["histograms"]]
    return [math.fsum(values) for values in zip(*found, strict=True)] if found else [0.0] * 10


def _pictures(folder: Path) -> list[_Picture]:
    """The first, the last and some between."""
    # By the names that training gives: others in the folder are somebody else's.
    paths = sorted(path for path in folder.glob("step-*.png") if _STEP.fullmatch(path.stem))
    last, count = len(paths) - 1, min(_MOST_PICTURES, len(paths))
    chosen = sorted({round(number * last / max(1, count - 1)) for number in range(count)})
    found = []
    for path in (paths[place] for place in chosen):
        try:
            with Image.open(path) as image:
                text = image.info.get("Description", "Samples of teachers and student.")
            uri = data_uri(path, widest=_WIDEST)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # all from Pillow
            _left_out(path, error)
            continue
        found.append(_Picture(int(path.stem.partition("-")[2]), uri, text))
    return found


def _scores(folder: Path) -> dict[str, Any]:
    """By model, the student last."""
    found = {}
    for path in [*sorted(folder.glob(f"{_SCORES}-*.json")), folder / f"{_SCORES}.json"]:
        if not path.is_file():
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            _check_scores(content)
        except (OSError, ValueError) as error:
            _left_out(path, error)
            continue
        found[path.stem.partition("-")[2] or "student"] = content
    return found


def _check_scores(content: Any) -> None:
    """Raise ValueError unless the scoreboard can be made from `content`."""
    numbers = []
    if isinstance(content, Mapping):
        grounds, categories = content.get("grounds"), content.get("categories")
        numbers.append(content.get("mean"))
        for part in (grounds, *(categories.values() if isinstance(categories, Mapping) else [None])):
            numbers += part.values() if isinstance(part, Mapping) else [None]
    if not numbers or not all(isinstance(number, (int, float)) for number in numbers):
        raise ValueError("it is not what danceopd eval writes")


def _left_out(path: Path, error: Exception) -> None:
    reason = " ".join(str(error).split())
    print(f"danceopd: the report leaves out '{path}', which cannot be read: {reason}", file=sys.stderr)


def _versions(folder: Path) -> dict[str, str]:
    path = folder / PROVENANCE
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["versions"]) if path.is_file() else {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        _left_out(path, error)
        return {}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
