"""Means over seeds and intervals over seeds and prompts.

All runs are judged on the same tasks from the same noise, so two arms are compared task by task: what a task
does to both of them cancels. Seeds and tasks are crossed, every seed meets every task, so both are resampled
independently of each other, and a drawn task is drawn for all seeds and both arms. Of S seeds S - 1 are drawn
with replacement, which makes the variance between seeds come out unbiased (as Rao and Wu, 1988, do for few
clusters); what belongs to one seed on one task is counted more than once (Owen, "The pigeonhole bootstrap",
2007), so the interval is rather too wide where prompts are what is uncertain.

That variance is itself only known from S seeds, which a percentile does not see: that of three seeds would
hold the truth in three of four cases where seeds are all that matters. So the part of an interval that comes
from seeds, beyond what tasks make of each of them alone, is stretched as Student's t is against a normal
distribution: by 2.2 for three seeds. In simulations of differences like those here, at least 95 % of the
intervals then hold the truth.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .records import Run

DRAWS: Final = 10_000
LEVEL: Final = 0.95

Floats = NDArray[np.float32]


class Estimate(NamedTuple):
    """A number with its interval of `LEVEL`; over `seeds` of training, 0 without."""

    value: float
    low: float
    high: float
    seeds: int


@dataclass(frozen=True)
class Outcomes:
    """What the runs of one arm did on the test tasks.

    Attributes:
        seeds: of the S runs.
        trained: whether seeds mean anything.
        tasks: ground -> category -> [S, T], 1 where the task is fulfilled.
    """

    seeds: tuple[int, ...]
    trained: bool
    tasks: Mapping[str, Mapping[str, Floats]]

    def scores(self, ground: str | None = None) -> Floats:
        """[S]: the mean over a ground's categories; of no ground, the mean over grounds."""
        grounds = self.tasks if ground is None else (ground,)
        means = [np.mean([o.mean(1) for o in self.tasks[name].values()], axis=0) for name in grounds]
        return np.asarray(np.mean(means, axis=0), np.float32)

    def only(self, seeds: Sequence[int]) -> Outcomes:
        """Those of some seeds; a model without training has the same for all."""
        rows = [self.seeds.index(seed) if self.trained else 0 for seed in seeds]
        taken = {
            ground: {category: of[rows] for category, of in categories.items()}
            for ground, categories in self.tasks.items()
        }
        return Outcomes(tuple(seeds), self.trained, taken)

    def half(self, which: int) -> Outcomes:
        """Every second task, the even ones or the odd: choose on one half and judge on the other."""
        taken = {
            ground: {category: of[:, which::2] for category, of in categories.items()}
            for ground, categories in self.tasks.items()
        }
        return Outcomes(self.seeds, self.trained, taken)


def outcomes(runs: Sequence[Run]) -> Outcomes:
    """The runs of one arm side by side, at least one.

    Raises:
        ValueError: a seed is there twice, or runs were judged on different tasks.
    """
    runs = sorted(runs, key=lambda run: run.seed)
    first, seeds = runs[0], tuple(run.seed for run in runs)
    about = f"'{first.arm}' in {first.setting}"
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"{about} has seeds {list(seeds)}, one of them twice: name every run once.")
    if len({_shape(run) for run in runs}) > 1:
        raise ValueError(f"runs of {about} were judged on different tasks: judge them again on the same.")
    tasks = {
        ground: {
            category: np.asarray([digits(run.tasks[ground][category]) for run in runs])
            for category in first.tasks[ground]
        }
        for ground in first.tasks
    }
    return Outcomes(seeds, any(run.budget != "none" for run in runs), tasks)


def digits(outcomes: str) -> Floats:
    """[T] of "0110..."."""
    return np.asarray(np.frombuffer(outcomes.encode(), np.uint8) == ord("1"), np.float32)


def _shape(run: Run) -> tuple[tuple[str, str, int], ...]:
    return tuple(sorted((g, c, len(given)) for g, of in run.tasks.items() for c, given in of.items()))


def mean_and_sd(values: Sequence[float] | Floats) -> tuple[float, float | None]:
    """Mean and standard deviation (of a sample, n - 1) over seeds; one seed has no deviation."""
    given = np.asarray(values, np.float64)
    return float(given.mean()), float(given.std(ddof=1)) if len(given) > 1 else None


def score(arm: Outcomes, ground: str | None = None) -> Estimate:
    """The score of one arm on a ground, or its mean over grounds; in [0, 1]."""
    return _estimate(arm, ground, _drawn(arm, ground))


def difference(
    arm: Outcomes,
    other: Outcomes,
    ground: str | None = None,
) -> Estimate | None:
    """`arm` minus `other`, paired over the seeds that both have and over tasks; None without common seeds.

    Raises:
        ValueError: they were judged on different tasks.
    """
    pair = _paired(arm, other)
    if pair is None:
        return None
    arm, other = pair
    tasks = {g: {c: given - other.tasks[g][c] for c, given in of.items()} for g, of in arm.tasks.items()}
    apart = Outcomes(arm.seeds, arm.trained or other.trained, tasks)
    return _estimate(apart, ground, _drawn(arm, ground) - _drawn(other, ground))


def kept_share(student: Outcomes, expert: Outcomes, ground: str) -> Estimate | None:
    """The student's score over its expert's, paired as in `difference`; None where the expert has none."""
    pair = _paired(student, expert)
    if pair is None or not pair[1].scores(ground).mean() > 0:
        return None
    student, expert = pair
    whole = expert.scores(ground).mean()
    tasks = {ground: {category: given / whole for category, given in student.tasks[ground].items()}}
    share = Outcomes(student.seeds, student.trained or expert.trained, tasks)
    return _estimate(share, ground, _drawn(student, ground) / np.maximum(_drawn(expert, ground), 1e-6))


def _paired(arm: Outcomes, other: Outcomes) -> tuple[Outcomes, Outcomes] | None:
    if arm.trained and other.trained:
        seeds: Sequence[int] = sorted(set(arm.seeds) & set(other.seeds))
    else:
        seeds = other.seeds if other.trained else arm.seeds
    if not seeds:
        return None
    arm, other = arm.only(seeds), other.only(seeds)
    if _shapes(arm) != _shapes(other):
        raise ValueError(
            f"two arms were judged on different tasks ({_shapes(arm)} and {_shapes(other)}): "
            "judge all runs of an output folder on the same."
        )
    return arm, other


def _shapes(arm: Outcomes) -> dict[str, dict[str, int]]:
    return {g: {category: given.shape[1] for category, given in of.items()} for g, of in arm.tasks.items()}


def _estimate(numbers: Outcomes, ground: str | None, drawn: NDArray[np.floating[Any]]) -> Estimate:
    """Of what is there for every seed and task, and of its mean as resampling draws it."""
    each = numbers.scores(ground).astype(np.float64)
    seeds = len(each) if numbers.trained else 0
    value, stretch, spread = float(each.mean()), 1.0, float(drawn.var())
    if seeds > 1 and spread > 0:
        beyond_tasks = max(0.0, float(each.var(ddof=1)) - _variance_by_tasks(numbers, ground))
        share = min(1.0, beyond_tasks / seeds / spread)
        stretch = math.sqrt(1.0 + (_beyond_normal(seeds - 1) ** 2 - 1.0) * share)
    low, high = value + stretch * (np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) - value)
    return Estimate(value, float(low), float(high), seeds)


def _variance_by_tasks(numbers: Outcomes, ground: str | None) -> float:
    """How much seeds differ because tasks are few: the variance of a seed's distance to the mean of seeds."""
    if ground is None:
        each = [_variance_by_tasks(numbers, name) for name in numbers.tasks]
    else:
        seeds = len(numbers.seeds)
        each = [
            float((of - of.mean(0)).var(1, ddof=1).mean()) / of.shape[1] * seeds / (seeds - 1)
            for of in numbers.tasks[ground].values()
            if of.shape[1] > 1
        ]
    return sum(each) / len(each) ** 2 if each else 0.0


@cache
def _beyond_normal(freedom: int) -> float:
    """How much further out than a normal distribution's the quantiles of Student's t lie."""
    steps = np.linspace(0.0, 100.0, 1_000_001)
    scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - math.log(freedom * math.pi) / 2
    density = np.exp(scale - (freedom + 1) / 2 * np.log1p(steps**2 / freedom))
    quantile = np.interp(LEVEL / 2, np.cumsum(density) * steps[1], steps)
    return float(quantile) / NormalDist().inv_cdf((1 + LEVEL) / 2)


def _drawn(arm: Outcomes, ground: str | None) -> Floats:
    """[DRAWS] scores of resampled seeds and tasks; the same resamples for every arm."""
    if ground is None:
        return np.asarray(np.mean([_drawn(arm, name) for name in arm.tasks], axis=0), np.float32)
    by_seed = _seed_weights(len(arm.seeds), DRAWS)
    means = [
        ((_task_weights(f"{ground}/{category}", given.shape[1], DRAWS) @ given.T) * by_seed).sum(1)
        for category, given in arm.tasks[ground].items()
    ]
    return np.asarray(np.mean(means, axis=0), np.float32)


# Weights are what resampling comes to in a mean. They are made once for all arms: pairing is using the same.
@cache
def _seed_weights(seeds: int, draws: int) -> Floats:
    return _weights("seeds", seeds, max(1, seeds - 1), draws)


@cache
def _task_weights(name: str, tasks: int, draws: int) -> Floats:
    return _weights(name, tasks, tasks, draws)


def _weights(name: str, count: int, taken: int, draws: int) -> Floats:
    """[draws, count] shares of `count` equal things when `taken` are drawn with replacement."""
    random = np.random.default_rng([zlib.crc32(name.encode()), count])
    return np.asarray(random.multinomial(taken, [1 / count] * count, size=draws) / taken, np.float32)
