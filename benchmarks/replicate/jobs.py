"""One run of the replication: a student to train, or a field that is there, and how to judge it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from danceopd.flow import QUERY_LAWS, QueryLaw, SigmaGrid
from danceopd.methods import Soft
from danceopd.shapesworld import ShapesWorldFamily
from danceopd.training import (
    Callback,
    DanceOPDTrainer,
    Plan,
    Route,
    SlotPlan,
    StudentConfig,
    Teacher,
    TrainConfig,
)
from danceopd.training.config import as_mapping

from . import judge

VERSION = 2
"""Of what a run does beyond what its key is made of; runs of another version are not taken over."""
WITHOUT_EFFECT = {"output_dir", "progress", "keep_checkpoints", "cache_dir", "report_to", "validation"}
"""Keys of `TrainConfig` that change nothing in a result."""
BATCH = 16
TRAINED = 3
"""A pass with gradient costs as much as this many without: one forward, and a backward of two."""


@dataclass(frozen=True)
class Setting:
    """Capabilities to hold in one student.

    Attributes:
        experts: ground -> the shipped expert that holds it.
        start: the weights that students start from: names of experts with the factors of their differences
            from the base.
    """

    name: str
    experts: Mapping[str, str]
    start: Mapping[str, float]


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("t2i-edit", {"t2i": "base", "edit": "edit"}, {"edit": 1.0}),
        Setting("local-global", {"local": "local", "global": "global"}, {"local": 1.0}),
        Setting("guided", {"t2i": "base"}, {"base": 1.0}),
    )
}
"""The last one is for guidance: its teacher is the base under a guidance scale."""


@dataclass(frozen=True)
class Judging:
    """What is scored.

    Attributes:
        prompts: test tasks per category.
        curve: at how many moments of the training, evenly spaced, the last one being its end.
        curve_prompts: tasks per category there.
        scales: guidance scales to sample with, beside 1.
        split: "test", or "validation" to choose settings on.
    """

    prompts: int = 64
    curve: int = 1
    curve_prompts: int = 24
    scales: tuple[float, ...] = ()
    split: str = "test"


@dataclass(frozen=True)
class Job:
    """One run. Two that are equal are one: it is trained once for all tables that it appears in.

    Attributes:
        setting: name of the setting.
        weights: for a field that is there already: experts with factors, as a student's start; None trains.
        updates: optimizer steps.
        seed: of training; tasks and their noise are the same for all runs.
        teacher_scale: guidance scale of the teachers.
        shift: of the noise levels, in training and in sampling; 1 is none.
        start: in place of the setting's.
        options: further keys of `TrainConfig`.
        anneal: name of the query law at the first update, from which the law moves evenly to the run's own.
    """

    setting: str
    judging: Judging
    weights: Mapping[str, float] | None = None
    updates: int = 0
    seed: int = 0
    teacher_scale: float = 1.0
    shift: float = 1.0
    start: Mapping[str, float] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    anneal: str | None = None

    @cached_property
    def key(self) -> str:
        """Names the run; changes with anything here that changes what it does.

        The code of the package is not in it: a result says by which it was made.
        """
        setting = SETTINGS[self.setting]
        config = {} if self.weights is not None else as_mapping(self.config(Path("unused")))
        about = {
            "version": VERSION,
            "job": dataclasses.asdict(self),
            "config": {name: value for name, value in config.items() if name not in WITHOUT_EFFECT},
            # In their order, in which routes are drawn and weights are summed.
            "experts": list(setting.experts.items()),
            "start": list((self.start or setting.start).items()),
            "weights": list((self.weights or {}).items()),
            "trained": TRAINED,
            "judge": judge.fixed(),
        }
        return sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def grounds(self) -> tuple[str, ...]:
        """What it is scored on."""
        return tuple(SETTINGS[self.setting].experts)

    def family(self) -> ShapesWorldFamily:
        """The world, with the noise levels of the run."""
        return ShapesWorldFamily() if self.shift == 1.0 else ShiftedWorld(self.shift)

    def teachers(self) -> list[Teacher]:
        """One for each ground."""
        return [
            Teacher(expert, lora=None if expert == "base" else expert, guidance_scale=self.teacher_scale)
            for expert in SETTINGS[self.setting].experts.values()
        ]

    def config(self, folder: Path) -> TrainConfig:
        """The numbers of the run; those that no suite varies are here."""
        usual: dict[str, Any] = {
            "batch_size": BATCH,
            "gradient_accumulation_steps": 1,
            "num_rollout_steps": 8,
            "lr_schedule": "linear",
            "warmup_steps": self.updates // 30,
            "adam_beta2": 0.98,
            "ema_decay": 0.98,
        }
        return TrainConfig(
            **{**usual, **self.options},
            output_dir=folder,
            student=starting_at(self.start or SETTINGS[self.setting].start),
            max_steps=self.updates,
            save_every=max(1, math.ceil(self.updates / self.judging.curve)),
            keep_checkpoints=self.judging.curve + 1,
            seed=self.seed,
            progress=False,
        )

    def trainer(self, folder: Path, callbacks: Sequence[Callback] = ()) -> DanceOPDTrainer:
        """As a user's script would make it."""
        trainer = DanceOPDTrainer(
            family=self.family(),
            teachers=self.teachers(),
            routes=[Route(expert, data=ground) for ground, expert in SETTINGS[self.setting].experts.items()],
            config=self.config(folder),
            callbacks=callbacks,
        )
        if self.anneal is not None:
            trainer.plan = annealed(trainer.plan, QUERY_LAWS[self.anneal], self.updates)
        return trainer

    def expected_compute(self) -> float:
        """Of the whole training, in forwards of one sample, by its plan."""
        return self.updates * self.compute_per_update() if self.weights is None else 0.0

    def compute_per_update(self) -> float:
        """In forwards of one sample, on average."""
        config = self.config(Path("unused"))
        method, steps = config.method, config.num_rollout_steps
        rollout = 0.0
        if method.name == "flowopd":
            rollout = float(steps)  # it needs the clean state too
        elif method.rolls_out:
            grid, count = SigmaGrid.shifted(steps, self.shift), method.num_states(steps)
            laws = [config.query_law]
            if self.anneal is not None:
                laws = [between(QUERY_LAWS[self.anneal], laws[0], (n + 0.5) / 20) for n in range(20)]
            rollout = sum(_last_state(law, grid, count) for law in laws) / len(laws)
        return BATCH * (rollout + self.compute_per_sample())

    def compute_per_sample(self) -> float:
        """Of teachers and gradients, without the rollout, in forwards of one sample."""
        config = self.config(Path("unused"))
        method = config.method
        asked = 0
        if method.needs_teachers:
            asked = len(self.grounds) if isinstance(method, Soft) else 1 + len(method.other_teachers)
            asked *= 1 if self.teacher_scale == 1.0 else 2
        return float(method.num_states(config.num_rollout_steps) * (asked + TRAINED))


def starting_at(weights: Mapping[str, float]) -> StudentConfig:
    """A student of all weights that starts at the base plus the experts' differences from it."""
    differences = {expert: factor for expert, factor in weights.items() if expert != "base"}
    return StudentConfig(init=differences or "base", kind="full")


@dataclass(frozen=True)
class AnnealedPlan(Plan):
    """A plan whose query law moves from another one to its own.

    Attributes:
        first: the law of the first update.
        updates: over which it moves.
    """

    first: QueryLaw = QUERY_LAWS["low"]
    updates: int = 1

    def step(self, step: int, rank: int = 0) -> tuple[SlotPlan, ...]:
        """As `Plan.step`, under the law of that update."""
        law = between(self.first, self.query, min(1.0, (step + 0.5) / self.updates))
        return Plan(**{**_settings_of(self), "query": law}).step(step, rank)


def annealed(plan: Plan, first: QueryLaw, updates: int) -> AnnealedPlan:
    """`plan` with a law that begins as `first`."""
    return AnnealedPlan(**_settings_of(plan), first=first, updates=updates)


def between(first: QueryLaw, last: QueryLaw, share: float) -> QueryLaw:
    """The Beta law whose parameters lie at a share of the way between two laws'."""
    alpha, beta = (
        (1.0 - share) * getattr(first, name) + share * getattr(last, name) for name in ("alpha", "beta")
    )
    return dataclasses.replace(last, alpha=alpha, beta=beta)


def _settings_of(plan: Plan) -> dict[str, Any]:
    return {field.name: getattr(plan, field.name) for field in dataclasses.fields(Plan) if field.init}


@cache
def _last_state(law: QueryLaw, grid: SigmaGrid, count: int) -> float:
    """The last of `count` different states that are drawn from a law, on average."""
    if count == 1:
        return law.expected_forwards(grid)
    slots = Plan(
        seed=0,
        route_weights=(1.0,),
        route_sizes=(1,),
        query=law,
        num_steps=grid.num_steps,
        drop_probability=0.0,
        slots_per_rank=2000,
        num_states=count,
        grid_of=lambda route, row: grid,
    ).step(0)
    return sum(slot.states[-1] for slot in slots) / len(slots)


class ShiftedWorld(ShapesWorldFamily):
    """ShapesWorld with a shifted grid, on which laws over the index and over sigma differ."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self._shift = shift

    def grid(self, num_steps: int, shape: Any = ()) -> SigmaGrid:
        """The shifted grid."""
        return SigmaGrid.shifted(num_steps, self._shift)
