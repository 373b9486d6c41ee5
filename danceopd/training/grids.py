"""Pictures while a run trains: the same rows and noise, drawn by every teacher and by the student."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from danceopd.data.keys import content_key
from danceopd.families import Example, Examples, Family, Prepared
from danceopd.files import write_whole
from danceopd.flow import VelocityField, draw_noise, rollout
from danceopd.pictures import write_table
from danceopd.settings import ConfigError
from danceopd.training.callbacks import Callback, Trainer
from danceopd.training.config import ValidationSettings, as_mapping
from danceopd.training.result import TrainResult
from danceopd.training.run_folder import CACHE, GRIDS, TEACHERS

_LARGEST: Final = 512  # pixels of an image's longer side


@dataclass(frozen=True, eq=False)  # families look up what they know of rows by identity
class OwnRows:
    """Rows that no route has. See `danceopd.families.Examples`."""

    examples: tuple[Example, ...]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, row: int, /) -> Example:
        return self.examples[row]


class Row(NamedTuple):
    """A row to draw.

    Attributes:
        label: what stands above it.
        example: with its sources.
        prepared: where its condition is.
        position: its place in `prepared`.
    """

    label: str
    example: Example
    prepared: Prepared
    position: int


class Grids(Callback):
    """Writes ``grids/step-00000500.png``: a row per prompt; columns source, teachers and student.

    The student is the one that the run exports, with the running mean of its weights where there is one.
    Drawn before the first update, then every so many updates, and at the end. A teacher is drawn once and
    its images are kept, for a resumed run too. One column is drawn at a time, from conditions encoded
    before, and afterwards what decoded it is freed.

    Args:
        settings: what to draw, and how often.
        family: reads the rows, where the settings name some.

    Raises:
        ConfigError: there are no rows.
        ValueError: from the family, for rows that it cannot use.
    """

    def __init__(self, settings: ValidationSettings, family: Family) -> None:
        self._settings = settings
        self._own: Examples | None = None
        if settings.prompts is not None:
            self._own = OwnRows(tuple(map(Example, settings.prompts)))
            family.shapes(self._own)  # raises where the family needs a source
        elif settings.data is not None:
            self._own = family.data(settings.data)
            if not len(self._own):
                raise ConfigError(f"the data '{settings.data}' of validation has no rows: add some.")

    def on_start(self, trainer: Trainer) -> None:
        """Draw the teachers, and the student's start."""
        self._trainer = trainer
        self._rows = list(self._choose_rows(trainer))
        self._folder = trainer.output_dir / GRIDS
        self._folder.mkdir(exist_ok=True)
        self._teachers = self._read_or_draw_teachers()
        self._drawn: int | None = None
        if trainer.step == 0:
            self._draw(0)

    def on_update(self, line: Mapping[str, Any]) -> None:
        """Draw the student when it is time."""
        if line["step"] % self._settings.every == 0:
            self._draw(line["step"])

    def on_end(self, result: TrainResult) -> None:
        """Draw what was exported."""
        if result.exported is not None and self._drawn != result.step:
            self._draw(result.step)

    def _draw(self, step: int) -> None:
        trainer = self._trainer
        mean = trainer.mean
        with trainer.weights.showing(mean.mean) if mean else nullcontext():
            (student,) = self._images({"student": trainer.field}).values()
        columns: dict[str, list[Tensor | None]] = {
            "source": [next(iter(row.example.sources), None) for row in self._rows],
            **self._teachers,
            f"student, step {step}": [*student],
        }
        if not any(image is not None for image in columns["source"]):
            del columns["source"]
        table = [
            (row.label, [images[place] for images in columns.values()])
            for place, row in enumerate(self._rows)
        ]
        path = write_table(self._folder / f"step-{step:08d}.png", list(columns), table, largest=_LARGEST)
        self._drawn = step
        trainer.callbacks.on_picture(step, path)

    def _read_or_draw_teachers(self) -> dict[str, list[Tensor | None]]:
        path, key = self._folder / TEACHERS, self._key()
        fields = dict(zip(self._names(), self._trainer.teachers, strict=True))
        kept = _read(path, key)
        if kept is None:
            kept = {
                f"{name}.{row}": image
                for name, images in self._images(fields).items()
                for row, image in enumerate(images)
            }
            write_whole(path, save(kept, {"key": key}))
        return {name: [kept[f"{name}.{row}"] for row in range(len(self._rows))] for name in fields}

    def _names(self) -> list[str]:
        return [teacher.name for teacher in self._trainer.asked]

    def _key(self) -> str:
        """Changes when a teacher's images do.

        A run that has a checkpoint never changes its teachers, but one that was killed before may.
        """
        settings, trainer = self._settings, self._trainer
        how = (settings.num_steps, settings.guidance_scale, settings.seed, trainer.run.dtype)
        teachers = (self._names(), as_mapping(trainer.run)["teachers"], trainer.made_of["content"])
        rows = [
            (row.example.prompt, row.example.sources, row.prepared.shape(row.position)) for row in self._rows
        ]
        return content_key(how, teachers, *rows)

    @torch.no_grad()
    def _images(self, fields: Mapping[str, VelocityField]) -> dict[str, list[Tensor]]:
        """Of every field an image per row, uint8 [3, H, W] on the CPU."""
        family = self._trainer.family
        latents = {name: self._latents(field) for name, field in fields.items()}
        images = {
            name: [family.decode(latent[None].to(family.device))[0].cpu() for latent in of]
            for name, of in latents.items()
        }
        family.release_encoders()
        return images

    def _latents(self, field: VelocityField) -> list[Tensor]:
        """A clean latent per row, on the CPU."""
        family, settings = self._trainer.family, self._settings
        field = family.guided(field, settings.guidance_scale)
        latents: dict[int, Tensor] = {}
        for rows in self._chunks(self._trainer.config.batch_size):
            first = self._rows[rows[0]]
            shape = first.prepared.shape(first.position)
            noise = draw_noise([(settings.seed + row) % 2**63 for row in rows], shape).to(family.device)
            condition = first.prepared.condition([self._rows[row].position for row in rows])
            drawn = rollout(field, noise, family.grid(settings.num_steps, shape), condition).sample
            latents.update(zip(rows, drawn.cpu(), strict=True))
        return [latents[row] for row in range(len(latents))]

    def _chunks(self, size: int) -> Iterator[list[int]]:
        """Rows that run together: of one route and one shape, no more than a training pass takes."""
        alike: dict[Any, list[int]] = {}
        for number, row in enumerate(self._rows):
            alike.setdefault((id(row.prepared), row.prepared.shape(row.position)), []).append(number)
        for rows in alike.values():
            yield from (rows[start : start + size] for start in range(0, len(rows), size))

    def _choose_rows(self, trainer: Trainer) -> Iterator[Row]:
        settings = self._settings
        if self._own is None:
            for name, examples, prepared in zip(
                trainer.route_names, trainer.data, trainer.prepared, strict=True
            ):
                for position in range(min(settings.rows, len(examples))):
                    example = examples[position]
                    yield Row(f"{name}: {example.prompt}", example, prepared, position)
            return
        count = len(self._own) if settings.prompts is not None else min(settings.rows, len(self._own))
        chosen = OwnRows(tuple(self._own[position] for position in range(count)))
        folder = Path(trainer.config.cache_dir or trainer.output_dir / CACHE)
        (prepared,) = trainer.family.prepare([chosen], folder)
        for position, example in enumerate(chosen.examples):
            yield Row(example.prompt, example, prepared, position)


def _read(path: Path, key: str) -> dict[str, Tensor] | None:
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("key") == key:
                names = file.keys()
                return {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError):
        pass  # not there, or damaged: it is drawn again
    return None
