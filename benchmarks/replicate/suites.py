"""The suites: which runs stand in which table, and under which names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from .jobs import SETTINGS, Job, Judging

Budget = Literal["updates", "compute", "none"]

PAIRS = ("t2i-edit", "local-global")
"""The two settings of the paper's main table."""

GRID = (5e-4, 1.5e-3, 4e-3, 1e-2)
"""The learning rates that every method was tried with, on validation tasks."""
FLOW_GRID = (1e-6, 1e-5, 1e-4, 1e-3)
"""Flow-OPD's, which falls apart at the others'."""
FURTHER = 2.5e-2
"""Tried where all have DanceOPD's compute: many cheap updates, and few dear ones, may take larger steps."""

RATES: Mapping[str, Mapping[str, float]] = {
    "danceopd": {"t2i-edit": 4e-3, "local-global": 1.5e-3},
    "diffusionopd": {"t2i-edit": 4e-3, "local-global": 1.5e-3},
    "flowopd": {"t2i-edit": 1e-4, "local-global": 1e-5},
    "offpolicy": {"t2i-edit": 4e-3, "local-global": 4e-3},
    "sft": {"t2i-edit": 1.5e-3, "local-global": 4e-3},
}
"""The best of each method's own, as the suite `tune` found them; all variants of a method share its rate."""
RATES_AT_COMPUTE: Mapping[str, Mapping[str, float]] = {
    "danceopd": {"t2i-edit": 4e-3, "local-global": 1.5e-3},
    "diffusionopd": {"t2i-edit": 4e-3, "local-global": 4e-3},
    "flowopd": {"t2i-edit": 1e-4, "local-global": 1e-5},
    "offpolicy": {"t2i-edit": 1.5e-3, "local-global": 1e-2},
    "sft": {"t2i-edit": 1.5e-3, "local-global": 1e-2},
}
"""The same where a method has as many updates as DanceOPD's compute allows."""

LABELS = {"sft": "joint training"}
METHODS = ("sft", "offpolicy", "diffusionopd", "flowopd", "danceopd")


@dataclass(frozen=True)
class Entry:
    """A row of a table.

    Attributes:
        suite: its table.
        arm: its name there.
        budget: what it has in common with DanceOPD: the number of updates, or the compute; none without
            training.
        job: the run behind it; several entries may share one.
    """

    suite: str
    arm: str
    budget: Budget
    job: Job

    @property
    def setting(self) -> str:
        """Of the job."""
        return self.job.setting


@dataclass(frozen=True)
class Size:
    """How much of everything.

    Attributes:
        updates: of the trainings.
        prompts: test tasks per category.
        curve: moments of a training that are judged, in the main suite.
    """

    updates: int = 200
    prompts: int = 64
    curve: int = 3


QUICK = Size(updates=24, prompts=8, curve=2)


def entries(suite: str, seeds: Sequence[int], size: Size) -> list[Entry]:
    """The rows of a suite.

    Raises:
        ValueError: there is no such suite.
    """
    if suite not in SUITES:
        raise ValueError(f"suite '{suite}' is unknown: choose one of {', '.join(SUITES)}.")
    return list(SUITES[suite](seeds, size))


def trained(
    setting: str, method: str | Mapping[str, Any], seed: int, size: Size, *, curve: int = 1, **options: Any
) -> Job:
    """The main recipe with some keys changed."""
    rates = RATES.get(method if isinstance(method, str) else "danceopd", RATES["danceopd"])
    named = {"method": method, "learning_rate": rates.get(setting, rates[PAIRS[0]]), **options}
    judging = Judging(prompts=size.prompts, curve=curve, curve_prompts=max(4, size.prompts // 4))
    return Job(setting, judging, updates=size.updates, seed=seed, options=named)


def at_equal_compute(job: Job, reference: Job) -> Job:
    """`job` with as many updates as `reference`'s compute allows, at least one."""
    updates = max(1, round(reference.expected_compute() / job.compute_per_update()))
    return replace(job, updates=updates)


def _as_dear_as(reference: Job, setting: str, method: str, seed: int, size: Size, **options: Any) -> Job:
    """Another method with the compute of `reference`, at the rate that suits it there."""
    options = {"learning_rate": RATES_AT_COMPUTE[method][setting], **options}
    return at_equal_compute(trained(setting, method, seed, size, **options), reference)


def given(setting: str, weights: Mapping[str, float], size: Size, **more: Any) -> Job:
    """Weights that need no training."""
    return Job(setting, Judging(prompts=size.prompts, **more), weights=dict(weights))


def _main(seeds: Sequence[int], size: Size) -> Iterator[Entry]:
    for setting in PAIRS:
        experts = list(SETTINGS[setting].experts.values())
        for expert in dict.fromkeys(["base", *experts]):
            yield Entry("main", f"source: {expert}", "none", given(setting, {expert: 1.0}, size))
        merged = {expert: 1.0 / len(experts) for expert in experts}
        yield Entry("main", "weight merge", "none", given(setting, merged, size))
    for seed in seeds:
        for setting in PAIRS:
            dance = trained(setting, "danceopd", seed, size, curve=size.curve)
            yield Entry("main", "danceopd", "updates", dance)
            yield Entry("main", "danceopd", "compute", dance)
            for method in METHODS[:-1]:
                job = trained(setting, method, seed, size, curve=size.curve)
                equal = _as_dear_as(dance, setting, method, seed, size)
                label = LABELS.get(method, method)
                yield Entry("main", label, "updates", job)
                yield Entry("main", label, "compute", equal)


def _compare(
    suite: str, seeds: Sequence[int], size: Size, usual: str, arms: Mapping[str, Mapping[str, Any]]
) -> Iterator[Entry]:
    """Variants of DanceOPD beside the main suite's own, which stands as `usual`."""
    for seed in seeds:
        for setting in PAIRS:
            dance = trained(setting, "danceopd", seed, size, curve=size.curve)
            yield Entry(suite, usual, "updates", dance)
            yield Entry(suite, usual, "compute", dance)
            for arm, changes in arms.items():
                options = {
                    key: value for key, value in changes.items() if key not in ("shift", "start", "anneal")
                }
                job = trained(setting, **{"method": "danceopd", **options}, seed=seed, size=size)
                for key in ("shift", "anneal"):
                    if key in changes:
                        job = replace(job, **{key: changes[key]})
                if "start" in changes:
                    if setting not in changes["start"]:
                        continue
                    job = replace(job, start=changes["start"][setting])
                yield Entry(suite, arm, "updates", job)
                equal = at_equal_compute(job, dance)
                # Where the two budgets differ by a few updates, a second training would only add noise.
                near = abs(equal.updates - job.updates) <= 0.05 * job.updates
                yield Entry(suite, arm, "compute", job if near else equal)


def _routing(seeds: Sequence[int], size: Size) -> Iterator[Entry]:
    arms: dict[str, dict[str, Any]] = {
        "soft mixture": {"method": "soft"},
        "one route per update": {"route_per": "update"},
    }
    return _compare("routing", seeds, size, "hard, per sample", arms)


def _query(seeds: Sequence[int], size: Size) -> Iterator[Entry]:
    arms: dict[str, dict[str, Any]] = {law: {"query": law} for law in ("middle", "high", "uniform")}
    arms |= {
        "low, shift 3": {"shift": 3.0},
        "low over sigma, shift 3": {"shift": 3.0, "query": {"law": "low", "over": "sigma"}},
    }
    return _compare("query", seeds, size, "low", arms)


def _beyond(seeds: Sequence[int], size: Size) -> Iterator[Entry]:
    """Laws that are not the paper's: what low noise leaves undone, at about the same cost."""
    arms: dict[str, dict[str, Any]] = {
        f"low, {share:.0%} uniform": {"query": {"law": "low", "uniform_share": share}}
        for share in (0.25, 0.5)
    }
    arms |= {
        "low, stratified": {"query": {"law": "low", "stratified": True}},
        "uniform, stratified": {"query": {"law": "uniform", "stratified": True}},
        "high to low": {"anneal": "high"},
        "low to high": {"anneal": "low", "query": "high"},
        "uniform to low": {"anneal": "uniform"},
    }
    return _compare("beyond", seeds, size, "low", arms)


def _k(seeds: Sequence[int], size: Size) -> Iterator[Entry]:
    arms = {f"K = {k}": {"method": {"name": "danceopd", "states": k}} for k in (4, 8)}
    arms["K = 8 (dense)"] = arms.pop("K = 8")
    return _compare("k", seeds, size, "K = 1", arms)


def _steps(seeds: Sequence[int], size: Size) -> Iterator[Entry]:
    arms: dict[str, dict[str, Any]] = {f"{n} steps": {"num_rollout_steps": n} for n in (4, 16, 28)}
    arms |= {
        f"{n} steps, second order": {"num_rollout_steps": n, "rollout_solver": "ab2"} for n in (4, 8, 16, 28)
    }
    return _compare("steps", seeds, size, "8 steps", arms)


def _loss(seeds: Sequence[int], size: Size) -> Iterator[Entry]:
    weighted = {name: {"method": {"name": "danceopd", "weighting": name}} for name in ("sigma", "kl")}
    # Equal steps have equal weights in a KL divergence: it takes a shift to tell it from MSE.
    arms: dict[str, dict[str, Any]] = {
        "sigma-weighted": weighted["sigma"],
        "mse, shift 3": {"shift": 3.0},
        "kl-weighted, shift 3": {"shift": 3.0, **weighted["kl"]},
    }
    return _compare("loss", seeds, size, "mse", arms)


def _init(seeds: Sequence[int], size: Size) -> Iterator[Entry]:
    others = {setting: list(SETTINGS[setting].experts.values()) for setting in PAIRS}
    arms: dict[str, dict[str, Any]] = {
        "base": {"start": {setting: {"base": 1.0} for setting in PAIRS}},
        "weight merge": {"start": {s: {expert: 0.5 for expert in others[s]} for s in PAIRS}},
        "the other expert": {"start": {"local-global": {"global": 1.0}}},
    }
    return _compare("init", seeds, size, "an expert", arms)


SCALES = (1.0, 1.5, 2.0, 3.0)


def _cfg(seeds: Sequence[int], size: Size) -> Iterator[Entry]:
    beyond = tuple(scale for scale in SCALES if scale != 1.0)
    # One ground, and gains of a few points over a single row, the base: 64 tasks of each tell too little.
    size = replace(size, prompts=4 * size.prompts)
    yield Entry("cfg", "base", "none", given("guided", {"base": 1.0}, size, scales=beyond))
    for seed in seeds:
        for scale in beyond:
            job = trained("guided", "danceopd", seed, size)
            judging = replace(job.judging, scales=beyond)
            yield Entry(
                "cfg", f"alpha = {scale:g}", "updates", replace(job, teacher_scale=scale, judging=judging)
            )


def _longer(seeds: Sequence[int], size: Size) -> Iterator[Entry]:
    """Without Flow-OPD, which stays where it starts; DiffusionOPD at equal compute alone, for its price."""
    long = replace(size, updates=4 * size.updates)
    for seed in seeds:
        for setting in PAIRS:
            dance = trained(setting, "danceopd", seed, long, curve=size.curve)
            yield Entry("longer", "danceopd", "updates", dance)
            yield Entry("longer", "danceopd", "compute", dance)
            for method in ("sft", "offpolicy", "diffusionopd"):
                label = LABELS.get(method, method)
                if method != "diffusionopd":
                    job = trained(setting, method, seed, long, curve=size.curve)
                    yield Entry("longer", label, "updates", job)
                equal = _as_dear_as(dance, setting, method, seed, long)
                yield Entry("longer", label, "compute", equal)


def _tune(seeds: Sequence[int], size: Size) -> Iterator[Entry]:
    """On validation tasks and a seed of its own: with fewer updates, and as dear as DanceOPD's whole run."""
    short = replace(size, updates=max(1, size.updates * 3 // 5))
    for setting in PAIRS:
        dance = trained(setting, "danceopd", 1000, size)
        for method in METHODS:
            grid = FLOW_GRID if method == "flowopd" else GRID
            jobs: list[tuple[Budget, float, Job]] = [
                ("updates", rate, trained(setting, method, 1000, short, learning_rate=rate)) for rate in grid
            ]
            jobs += [
                ("compute", rate, _as_dear_as(dance, setting, method, 1000, size, learning_rate=rate))
                for rate in (*grid, *([] if method == "flowopd" else [FURTHER]))
            ]
            for budget, rate, job in jobs:
                arm = f"{LABELS.get(method, method)}, {rate:g}"
                judging = replace(job.judging, split="validation")
                yield Entry("tune", arm, budget, replace(job, judging=judging))


SUITES: Mapping[str, Callable[[Sequence[int], Size], Iterator[Entry]]] = {
    "main": _main,
    "routing": _routing,
    "query": _query,
    "beyond": _beyond,
    "k": _k,
    "steps": _steps,
    "loss": _loss,
    "init": _init,
    "cfg": _cfg,
    "longer": _longer,
    "tune": _tune,
}
