"""One update of our own, with each idea on or off; with all of them off it is the published recipe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from danceopd import ops
from danceopd.flow import Condition, GuidedField, VelocityField, rollout
from danceopd.methods import Batch, Limits
from danceopd.methods.matching import match_velocity, routed
from trainbench.published import guided, published_update
from trainbench.worlds import TEACHERS, Fields, Work, World

Slots = Literal["refilled", "shrinking", "sorted chunks"]


@dataclass(frozen=True)
class Recipe:
    """How an update is computed; what it computes is the same for all.

    Attributes:
        early_stop: roll out to the queried state instead of to the end.
        width: samples per forward of the rollout; 0 for all.
        slots: what happens to the place of a sample that has stopped: the next one takes it (refilled), or
            the forward goes on narrower, in chunks of the plan's order (shrinking) or of samples sorted by
            state.
        micro: samples per forward of teacher and student at the queried state; 0 for all.
        one_forward: both branches of guidance in one forward.
        cached: prompts are encoded once per run instead of once per sample.
        shared: teachers and student as adapters of one base.
        native: steps, guidance and loss by the compiled kernels instead of by torch.
        mixed: samples of all routes in one update, instead of one update per route.
        compiled: repeated blocks by torch.compile; of the shared base alone.
    """

    early_stop: bool = False
    width: int = 1
    slots: Slots = "refilled"
    micro: int = 1
    one_forward: bool = False
    cached: bool = False
    shared: bool = False
    native: bool = False
    mixed: bool = True
    compiled: bool = False

    def fields(self, world: World) -> Fields:
        """The models that it is computed with."""
        if self.compiled:
            return world.compiled
        return world.shared if self.shared else world.copied


@dataclass(frozen=True)
class TwoForwards:
    """Guidance as two forwards, one after the other."""

    field: VelocityField
    scale: float

    def __call__(self, sample: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """Guided velocity [B, ...]."""
        return guided(self.field, sample, sigma, condition, self.scale)


def update(world: World, recipe: Recipe, work: Work, student_guidance: float = 1.0) -> tuple[Tensor, Tensor]:
    """Add the gradient of one update's mean loss to the student; loss [S] and queried states [S, ...]."""
    fields = recipe.fields(world)
    with ops.use("native" if recipe.native else "reference"):
        if recipe.mixed:
            return _update(world, fields, recipe, work, student_guidance, len(work.rows))
        loss, states = torch.empty(len(work.rows), device=work.noise.device), torch.empty_like(work.noise)
        for route in range(len(TEACHERS)):
            rows = [row for row, own in enumerate(work.routes) if own == route]
            if rows:
                part = _rows(work, rows)
                loss[rows], states[rows] = _update(
                    world, fields, recipe, part, student_guidance, len(work.rows)
                )
        return loss, states


def _update(
    world: World, fields: Fields, recipe: Recipe, work: Work, student_guidance: float, samples: int
) -> tuple[Tensor, Tensor]:
    student = _guided(fields.student, student_guidance, recipe)
    teachers = {
        name: _guided(field, scale, recipe)
        for name, field, scale in zip(TEACHERS, fields.teachers, world.guidance, strict=True)
    }
    condition = _condition(world, recipe, work, student_guidance)
    states = torch.tensor(work.states)[:, None]
    batch = Batch(work.noise, condition, torch.tensor(work.routes), states)
    sample = torch.empty_like(work.noise)
    sigma = torch.empty(states.shape, device=work.noise.device)
    for rows, width in _chunks(states[:, 0], recipe):
        wanted = states[rows]
        stop = wanted if recipe.early_stop else torch.cat([wanted, _end(wanted, world)], dim=1)
        rolled = rollout(
            student, work.noise[rows], world.grid, condition.take(rows), stop=stop, batch_size=width
        )
        sample[rows], sigma[rows] = rolled.sample[:, 0], rolled.sigma[:, :1]
    limits = Limits(recipe.micro or None, samples_per_update=samples)
    loss, _ = match_velocity(student, routed(teachers, batch), batch, sample[:, None], sigma, limits)
    return loss, sample


def _guided(field: VelocityField, scale: float, recipe: Recipe) -> VelocityField:
    if scale == 1.0:
        return field
    return GuidedField(field, scale) if recipe.one_forward else TwoForwards(field, scale)


def _condition(world: World, recipe: Recipe, work: Work, student_guidance: float) -> Condition:
    condition: Condition | None = None
    for row, route in zip(work.rows, work.routes, strict=True):
        with_empty = world.guidance[route] != 1.0 or student_guidance != 1.0
        one = world.cache[row] if recipe.cached else world.encode(row, with_empty=with_empty)
        condition = one if condition is None else condition.concat(one)
    assert condition is not None
    return condition


def _chunks(states: Tensor, recipe: Recipe) -> Iterator[tuple[Tensor, int | None]]:
    """Samples that are rolled out by one call, and its batch size."""
    count = len(states)
    if recipe.slots == "refilled":
        yield torch.arange(count), recipe.width or None
        return
    order = torch.arange(count) if recipe.slots == "shrinking" else torch.argsort(states, descending=True)
    for rows in order.split(recipe.width or count):
        yield rows, None


def _end(states: Tensor, world: World) -> Tensor:
    return torch.full_like(states, world.grid.num_steps)


def _rows(work: Work, rows: list[int]) -> Work:
    lists = ([values[row] for row in rows] for values in work[:3])
    return Work(*lists, work.noise[rows])


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Attributes:
        group: where it is listed.
        name: what is new in it.
        recipe: None for the published one.
        against: name of the case, of the same group, that it is compared with.
        student_guidance: scale under which the student is rolled out and trained.
    """

    group: str
    name: str
    recipe: Recipe | None
    against: str
    student_guidance: float = 1.0

    def run(self, world: World, work: Work) -> tuple[Tensor, Tensor]:
        """One update."""
        if self.recipe is None:
            return published_update(world, world.copied, work, self.student_guidance)
        return update(world, self.recipe, work, self.student_guidance)

    def fields(self, world: World) -> Fields:
        """The models that it needs."""
        return world.copied if self.recipe is None else self.recipe.fields(world)

    @property
    def is_compiled(self) -> bool:
        """Whether it compiles when it first runs."""
        return self.recipe is not None and self.recipe.compiled


def ladder(width: int, micro: int, *, compiled: bool = False) -> list[Case]:
    """All cases.

    Args:
        width: of narrow rollouts, below the samples of an update, where slots matter.
        micro: samples per forward of teacher and student at the queried state; 0 for all.
        compiled: whether there are cases with compiled blocks.
    """
    ideas = {
        "early stop": {"early_stop": True},
        "prompts cached": {"cached": True},
        "batched rollout": {"width": 0},
        "batched teachers and student": {"micro": micro},
        "guidance in one forward": {"one_forward": True},
        "one base, adapters": {"shared": True},
        "native kernels": {"native": True},
    }
    published = "published"
    cases = [
        Case("each alone", published, None, published),
        Case("each alone", "ours with all ideas off", Recipe(), published),
    ]
    cases += [Case("each alone", name, Recipe(**idea), published) for name, idea in ideas.items()]
    recipe = Recipe()
    for position, (name, idea) in enumerate(ideas.items()):
        recipe = replace(recipe, **idea)
        last = position == len(ideas) - 1
        if position:  # the first is there already
            cases.append(Case("added up", "all together" if last else f"+ {name}", recipe, published))
    narrow = replace(recipe, width=width)
    cases += [
        Case("slots", f"width {width}, shrinking", replace(narrow, slots="shrinking"), "slots"),
        Case("slots", f"width {width}, sorted chunks", replace(narrow, slots="sorted chunks"), "slots"),
        Case("slots", f"width {width}, refilled", narrow, "slots"),
        Case("slots", f"width {width}, refilled, to the end", replace(narrow, early_stop=False), "slots"),
        Case("routes", "one route per update", replace(recipe, mixed=False), published),
    ]
    scale = 4.5
    cases += [
        Case("guided student", "published, guided", None, "published, guided", scale),
        Case("guided student", "in one forward", Recipe(one_forward=True), "published, guided", scale),
        Case("guided student", "all together, guided", recipe, "published, guided", scale),
    ]
    if compiled:
        blocks = replace(recipe, compiled=True)
        cases += [
            Case("compiled", "blocks compiled", blocks, "all together"),
            Case("compiled", "blocks compiled, against published", blocks, published),
        ]
    first_narrow = next(case.name for case in cases if case.group == "slots")
    return [replace(case, against=first_narrow) if case.against == "slots" else case for case in cases]
