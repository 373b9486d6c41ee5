"""That all cases do the same work, how long they take for it, and the memory they need."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from danceopd.training.measuring import peak_bytes, storage_bytes
from trainbench.ladder import Case
from trainbench.worlds import Work, World


class DifferentWork(RuntimeError):
    """A case computes something else than the published recipe, so its time says nothing."""


class Outcome(NamedTuple):
    """What one update comes to.

    Attributes:
        loss: [S].
        states: [S, ...], where teachers were asked.
        gradient: of the student's trained parameters, as one vector.
    """

    loss: Tensor
    states: Tensor
    gradient: Tensor


def outcome(case: Case, world: World, work: Work) -> Outcome:
    """One update of a case and the gradient that it leaves."""
    _discard_gradients(case, world)
    loss, states = case.run(world, work)
    trained = {name: p for name, p in case.fields(world).module.named_parameters() if p.requires_grad}
    gradients = [trained[name].grad for name in sorted(trained)]
    flat = torch.cat([gradient.flatten().float() for gradient in gradients if gradient is not None])
    return Outcome(loss.float(), states.float(), flat)


def check_same_work(cases: Sequence[Case], world: World, work: Work, tolerance: float) -> dict[str, float]:
    """The largest relative difference of states, losses and gradient to the published recipe, by case.

    Raises:
        DifferentWork: one of them is above `tolerance`.
    """
    wanted: dict[float, Outcome] = {}
    worst = {}
    for case in cases:
        found = outcome(case, world, work)
        reference = wanted.setdefault(case.student_guidance, found)
        parts = zip(found, reference, strict=True)
        apart = [float((mine - other).norm() / other.norm()) for mine, other in parts]
        worst[case.name] = max(apart)
        if not worst[case.name] <= tolerance:
            raise DifferentWork(
                f"'{case.name}' on {world.name} differs from the published recipe by "
                f"{', '.join(f'{a:.1e} in {name}' for a, name in zip(apart, Outcome._fields, strict=True))}, "
                f"above {tolerance:g}: it does other work."
            )
    return worst


def compile_seconds(cases: Sequence[Case], world: World, works: Sequence[Work]) -> float:
    """Wall time of the first updates of compiled cases; nothing is left to compile when they are timed."""
    began = time.perf_counter()
    for case in cases:
        if case.is_compiled:
            for work in works:
                _discard_gradients(case, world)
                case.run(world, work)
    return time.perf_counter() - began


def seconds_of(
    cases: Sequence[Case],
    world: World,
    works: Sequence[Work],
    tick: Callable[[Case], object],
) -> dict[str, list[float]]:
    """Seconds of each case in each round; the cases take turns, and all of them have run before.

    On the CPU the clock is the process's own time, which others do not prolong by taking the core away.
    """
    seconds: dict[str, list[float]] = {case.name: [] for case in cases}
    for work in works:
        for case in cases:
            _discard_gradients(case, world)
            began = _now(world.device)
            case.run(world, work)
            seconds[case.name].append(_now(world.device) - began)
            tick(case)
    return seconds


def memory_of(case: Case, world: World, work: Work) -> dict[str, int]:
    """Bytes of the models that a case needs, and of what an update takes on top at its worst moment.

    On the CPU nothing is seen inside compiled code, so that what is counted there is the same uncompiled.
    """
    weights = [tensor for model in case.fields(world).models for tensor in model.parameters()]
    _discard_gradients(case, world)
    peak = peak_bytes(lambda: case.run(world, work), world.device)
    return {"weights": storage_bytes(weights, set()), "update": peak}


def lines_of(
    cases: Sequence[Case],
    seconds: dict[str, list[float]],
    memory: dict[str, dict[str, int]],
    apart: dict[str, float],
    samples: int,
) -> list[dict[str, Any]]:
    """The table: a ratio is the median of the ratios within rounds."""
    lines = []
    for case in cases:
        ratios = [there / own for own, there in zip(seconds[case.name], seconds[case.against], strict=True)]
        lines.append(
            {
                "group": case.group,
                "name": case.name,
                "against": case.against,
                "speedup": statistics.median(ratios),
                "speedup_range": [min(ratios), max(ratios)],
                "samples_per_second": samples / statistics.median(seconds[case.name]),
                "difference": apart[case.name],
                **{f"{part}_bytes": count for part, count in memory[case.name].items()},
            }
        )
    return lines


def _discard_gradients(case: Case, world: World) -> None:
    for parameter in case.fields(world).module.parameters():
        parameter.grad = None


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()
