"""What a check found, step by step, in a form for programs and in lines for people."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RouteRows:
    """The rows of a route.

    Attributes:
        route: what metrics call it.
        data: where they come from.
        rows: how many there are.
        shapes: rows by the shape of their latent, such as ``{"128x64x64": 120}``.
    """

    route: str
    data: str
    rows: int
    shapes: dict[str, int]

    def line(self) -> str:
        """For people."""
        if len(self.shapes) == 1:
            return f"{self.route}: {self.rows} rows of {next(iter(self.shapes))}"
        shown = [f"{count} of {shape}" for shape, count in list(self.shapes.items())[:4]]
        others = [f"{len(self.shapes) - 4} other shapes"] if len(self.shapes) > 4 else []
        return f"{self.route}: {self.rows} rows ({', '.join([*shown, *others])})"


@dataclass(frozen=True)
class Resources:
    """What the run takes of disk and memory beside what is there, in bytes.

    Attributes:
        checkpoints: of all checkpoints that lie on the disk at once, and of the exported student; exact but
            for headers.
        cache: of encoded rows yet to be written; an estimate from a few rows.
        free_disk: in output_dir.
        free_cache_disk: in the cache's folder.
        weights: of models on the device, of trained fp32 weights and their moments: what is needed at least.
        encoders: of the encoders' files; they leave the memory before training.
        free_memory: of the device now.
        device: which.
    """

    checkpoints: int
    cache: int
    free_disk: int
    free_cache_disk: int
    weights: int
    encoders: int
    free_memory: int
    device: str

    def lines(self) -> list[str]:
        """For people: disk, and memory."""
        return [
            f"disk: {bytes_text(self.checkpoints)} of checkpoints and {bytes_text(self.cache)} of cache, "
            f"{bytes_text(self.free_disk)} free",
            f"{self.device}: {bytes_text(self.weights)} at least, {bytes_text(self.free_memory)} free",
        ]


@dataclass(frozen=True)
class TeacherFacts:
    """A teacher as it was loaded.

    Attributes:
        name: in the config.
        what: base, LoRA, checkpoint, LoRA on checkpoint, or guidance.
        layers: linear layers that its LoRA changes, 0 without one.
        of_layers: linear layers of the model under the LoRA, 0 without one.
        ranks: lowest and highest rank of the LoRA's layers, None without one.
        scales: lowest and highest factor of the LoRA's products, strength included; None without one.
        guidance_scale: of the teacher.
        change: distance of its field from the field without what makes it a teacher (its LoRA, else its
            checkpoint, else its guidance) over the size of that field, at a few noisy states; 0 for the base;
            None where the base is not in memory to compare with.
        student_distance: that of the student's start from the teacher, over the size of the teacher's field.
    """

    name: str
    what: str
    layers: int
    of_layers: int
    ranks: tuple[int, int] | None
    scales: tuple[float, float] | None
    guidance_scale: float
    change: float | None
    student_distance: float

    def line(self) -> str:
        """For people."""
        parts = [f"{self.name}: {self.what}"]
        if self.ranks is not None and self.scales is not None:
            parts.append(
                f"all its keys on {self.layers} of {self.of_layers} linear layers, "
                f"rank {_range(self.ranks)}, scale {_range(self.scales)}"
            )
        if self.guidance_scale != 1.0:
            parts.append(f"guidance {self.guidance_scale:g}")
        if self.change:
            parts.append(f"changes the velocity by {percent_text(self.change)}")
        parts.append(f"the student starts {percent_text(self.student_distance)} away")
        return ", ".join(parts)


@dataclass(frozen=True)
class Behaviour:
    """What a frozen field without guidance does on rows of its routes; distances are relative.

    Attributes:
        alone: distance of two rows asked one by one from the same rows in one batch: rounding.
        guidance: distance of guidance at scale 1 from the conditional velocity: rounding; None where the
            family's guided field is none of ours.
        noise_share: ``<v, x> / <x, x>`` at pure noise x: near 1 for a trained field, since v = eps - x0.
        misses: by sigma, distance of the velocity from eps - x0 on a sample x0 that the field has drawn,
            noised anew: well below 1 for a trained field. ``x - sigma v`` is sigma times that far from x0.
        speeds: there, root mean square of the velocity: alike for a trained field.
        time: change of the velocity between sigma 0.9 and 0.1 of one sample.
        prompt: change with the prompt; None where all prompts are empty.
        source: change with another row's source; None where no two rows have different ones.
    """

    alone: float
    guidance: float | None
    noise_share: float
    misses: dict[float, float]
    speeds: dict[float, float]
    time: float
    prompt: float | None
    source: float | None

    def warnings(self, who: str) -> list[str]:
        """What no trained field of right conventions does, in sentences about `who`."""
        found = []
        sigma, miss = max(self.misses.items(), key=lambda entry: entry[1])
        blame = "the family has a wrong sign or time scale, or the weights are untrained."
        if not 0.5 < self.noise_share < 1.5:
            found.append(
                f"{who} does not see noise as noise: its velocity there holds "
                f"{self.noise_share:.2g} of it, that of a trained field about 1; {blame}"
            )
        elif miss >= 1.0:
            found.append(
                f"{who} does not know its own samples: noised to sigma {sigma:g} their velocity "
                f"is missed by {percent_text(miss)} of its length; {blame}"
            )
        for what, change in (("sigma", self.time), ("prompts", self.prompt), ("sources", self.source)):
            if change == 0.0:
                found.append(
                    f"{who} does not listen to its {what}: the velocity stays the same to the "
                    "last bit; look at what the family hands to the model, unless that is meant."
                )
        return found


@dataclass(frozen=True)
class SelfTest:
    """Whether the conventions hold together.

    Attributes:
        losses: by teacher, of a student that is this teacher, in DanceOPD's update, whatever the run's
            method: 0 exactly.
        start: whether the student's velocity is the base's, bit for bit; None for one that starts elsewhere,
            or where the base is not in memory.
        fields: by teacher, what its field does; where no teacher is asked, that of the student's start.
    """

    losses: dict[str, float]
    start: bool | None
    fields: dict[str, Behaviour]

    def lines(self) -> list[str]:
        """For people: what holds for all, and each field."""
        told = []
        if self.losses:
            told.append(f"a student that is its teacher has loss 0 ({', '.join(self.losses)})")
        if self.start is not None:
            told.append("the student starts as the base")
        told.append(
            f"rows alone are rows of a batch (to {max(field.alone for field in self.fields.values()):.1g})"
        )
        for name, field in self.fields.items():
            parts = [f"holds {field.noise_share:.2g} of pure noise"]
            misses = ", ".join(f"{percent_text(miss)} at {sigma:g}" for sigma, miss in field.misses.items())
            parts.append(f"misses its own samples by {misses}")
            if field.prompt is not None:
                parts.append(f"moves {percent_text(field.prompt)} with the prompt")
            if field.source is not None:
                parts.append(f"{percent_text(field.source)} with the source")
            told.append(f"{name} {', '.join(parts)}")
        return told

    def warnings(self) -> list[str]:
        """Of all fields."""
        found = []
        for name, field in self.fields.items():
            found += field.warnings(f"teacher '{name}'" if self.losses else "the student's start")
        return found


@dataclass(frozen=True)
class Memory:
    """Bytes on the device while the run trains.

    Parameters are counted, each storage once. What the optimizer keeps follows from their number. Activations
    are measured on one sample's forward and backward, the largest over the routes, and multiplied by
    batch_size: an estimate, like the total.

    Attributes:
        base: weights of the shared base, or of what the student's LoRA is on.
        adapters: LoRAs of teachers.
        teachers: weights of other models; of those that wait off the device, the largest.
        student: what is trained, in the model's precision.
        masters: fp32 copies of that, where the model is not fp32.
        gradients: fp32.
        optimizer: AdamW's two moments.
        ema: the running mean, fp32.
        activations: see above.
        free: on the device now, the models that are loaded already taken off.
    """

    base: int
    adapters: int
    teachers: int
    student: int
    masters: int
    gradients: int
    optimizer: int
    ema: int
    activations: int
    free: int

    @property
    def loaded(self) -> int:
        """What lies in memory before the first update."""
        return self.base + self.adapters + self.teachers + self.student + self.masters + self.ema

    @property
    def total(self) -> int:
        """The sum."""
        return self.loaded + self.gradients + self.optimizer + self.activations


@dataclass(frozen=True)
class Estimate:
    """What the run will take.

    Attributes:
        memory: on the device.
        forwards: evaluations of a model in one update, in samples, those of guidance counted twice.
        backwards: samples of one update that are differentiated, those of guidance counted twice; each costs
            about two forwards.
        seconds_per_forward: measured for the student on each route, of one sample in a batch of batch_size.
        seconds_per_update: all of it.
        hours: of max_steps updates; without encoding, checkpoints and the export.
    """

    memory: Memory
    forwards: float
    backwards: float
    seconds_per_forward: dict[str, float]
    seconds_per_update: float
    hours: float

    def lines(self) -> list[str]:
        """For people: memory, work, and time."""
        memory = self.memory
        return [
            f"about {bytes_text(memory.total)} of memory (models {bytes_text(memory.loaded)}, optimizer and "
            f"gradients {bytes_text(memory.optimizer + memory.gradients)}, activations "
            f"{bytes_text(memory.activations)}; {bytes_text(memory.free)} free)",
            f"{self.forwards:.1f} forwards and {self.backwards:.3g} backwards per update",
            f"about {time_text(self.seconds_per_update)} per update, {time_text(self.hours * 3600)} in all",
        ]


@dataclass(frozen=True)
class CheckReport:
    """Everything that a check found. It passed: what fails is raised.

    Attributes:
        rows: of each route.
        resources: disk and memory, before models are loaded.
        teachers: those that some route asks.
        self_test: whether the conventions hold together.
        estimate: memory and time.
        samples: the picture of the samples, None where none was asked for.
        warnings: what does not keep the run from starting, in sentences.
    """

    rows: Sequence[RouteRows]
    resources: Resources
    teachers: Sequence[TeacherFacts]
    self_test: SelfTest
    estimate: Estimate
    samples: str | None
    warnings: Sequence[str]

    def to_json(self) -> str:
        """The report as JSON, totals included."""
        report: dict[str, Any] = dataclasses.asdict(self)
        report["estimate"]["memory"] |= {"total": self.estimate.memory.total}
        return json.dumps(report, indent=2)


def bytes_text(count: int) -> str:
    """Such as "1.5 GB"; powers of 1000."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}" if count < 999.5 * size else f"{count / size:.0f} {unit}"
    return f"{count} bytes"


def time_text(seconds: float) -> str:
    """Such as "2.5 h"."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds * 1000:.3g} ms"


def percent_text(share: float) -> str:
    """Such as "3.1 %"."""
    return f"{share * 100:.2g} %" if share < 0.995 else f"{share * 100:.0f} %"


def _range(ends: tuple[float, float]) -> str:
    low, high = ends
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
