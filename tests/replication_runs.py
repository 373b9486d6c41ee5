"""Runs of a replication that nobody made: scores are chosen, tasks drawn from them."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from replicate.records import Run

CATEGORIES = {
    "t2i": ("single", "two", "counting", "colours", "position", "colour-attribution"),
    "edit": ("subject-add", "subject-remove", "style-change"),
    "local": ("subject-add", "subject-remove"),
    "global": ("background-change", "style-change"),
}
SETTINGS = {"t2i-edit": ("t2i", "edit"), "local-global": ("local", "global"), "guided": ("t2i",)}
# arm -> share of tasks per ground of a setting
MAIN = {
    "source: base": (0.80, 0.02),
    "source: edit": (0.20, 0.85),
    "source: local": (0.82, 0.02),
    "source: global": (0.03, 0.95),
    "joint training": (0.45, 0.66),
    "weight merge": (0.30, 0.10),
    "offpolicy": (0.50, 0.64),
    "diffusionopd": (0.62, 0.71),
    "flowopd": (0.55, 0.60),
    "danceopd": (0.70, 0.75),
}
ABLATIONS = {
    "routing": {
        "hard, per sample": (0.70, 0.75),
        "soft mixture": (0.25, 0.30),
        "one route per update": (0.66, 0.70),
    },
    "query": {"low": (0.70, 0.75), "middle": (0.64, 0.73), "high": (0.50, 0.60), "uniform": (0.62, 0.70)},
    "k": {"K = 1": (0.70, 0.75), "K = 4": (0.71, 0.75), "K = 8 (dense)": (0.70, 0.76)},
    "steps": {
        "8 steps": (0.70, 0.75),
        "4 steps": (0.60, 0.68),
        "16 steps": (0.71, 0.76),
        "28 steps": (0.71, 0.75),
    },
    "loss": {
        "mse": (0.70, 0.75),
        "sigma-weighted": (0.69, 0.75),
        "mse, shift 3": (0.70, 0.75),
        "kl-weighted, shift 3": (0.66, 0.72),
    },
    "init": {"an expert": (0.70, 0.75), "base": (0.72, 0.40), "weight merge": (0.70, 0.75)},
    "longer": {
        "danceopd": (0.77, 0.82),
        "joint training": (0.55, 0.70),
        "offpolicy": (0.60, 0.66),
        "diffusionopd": (0.70, 0.72),
    },
}
MOMENTS = (100, 200, 400)
SCALES = (1.0, 1.5, 2.0, 3.0)


def make_run(
    arm: str,
    seed: int = 0,
    setting: str = "t2i-edit",
    shares: Sequence[float] = (0.5, 0.5),
    *,
    suite: str = "main",
    budget: str = "updates",
    count: int = 32,
    curve: bool = False,
    scales: Mapping[float, Sequence[float]] | None = None,
    noise: float = 0.5,
) -> Run:
    """A run with about `shares` of `count` tasks per category; tasks are as hard for all.

    Args:
        scales: shares where the student is sampled with other guidance scales than 1.
        noise: how far the runs disagree about which tasks are hard, in [0, 1].
    """
    random = np.random.default_rng(zlib.crc32(f"{shares}/{arm}/{seed}/{setting}/{budget}".encode()))
    trained = budget != "none"
    shift = random.normal(0, 0.015) * trained

    def tasks(scale: float, number: int, shares: Sequence[float] = shares) -> dict[str, dict[str, str]]:
        given: dict[str, dict[str, str]] = {}
        for ground, share in zip(SETTINGS[setting], shares, strict=False):
            given[ground] = {}
            for category in CATEGORIES[ground]:
                hard = np.random.default_rng(zlib.crc32(category.encode())).random(number)
                level = np.where(random.random(number) < noise, random.random(number), hard)
                given[ground][category] = "".join("01"[int(done)] for done in level < (share + shift) * scale)
        return given

    def diversity(loss: float) -> dict[str, Mapping[str, Any]]:
        ratios = {"background": 0.98, "position": 0.99, "size": 0.93, "layout": 1.0 - loss}
        return {
            ground: {"readable": 0.9, **{n: {"ratio": r + random.normal(0, 0.01)} for n, r in ratios.items()}}
            for ground in SETTINGS[setting]
        }

    def gap(scale: float) -> dict[str, Mapping[str, list[float]]]:
        sigma = np.linspace(0.05, 0.95, 10)
        return {
            ground: {
                "sigma": sigma.tolist(),
                "error": (scale * (0.002 + 0.03 * sigma**2) * random.uniform(0.9, 1.1, 10)).tolist(),
            }
            for ground in SETTINGS[setting]
        }

    updates = 400 if trained else 0
    per_update = (
        16 * (4.0 if arm in ("joint training", "offpolicy") else 9.0) * (2 if budget == "compute" else 1)
    )
    moments = [
        {
            "updates": u,
            "compute": u * per_update,
            "tasks": tasks(0.4 + 0.6 * u / 400, 12),
            "diversity": diversity(u / 2000),
            "gap": gap(3 - u / 200),
        }
        for u in MOMENTS
        if curve
    ]
    return Run(
        suite=suite,
        setting=setting,
        arm=arm,
        budget=budget,
        seed=seed,
        method="danceopd" if trained else "",
        updates=updates,
        learning_rate=0.0015 if trained else 0.0,
        config={"arm": arm, "seed": seed, "setting": setting, "budget": budget},
        compute=updates * per_update,
        seconds=updates * per_update / 1000,
        diverged=None,
        tasks=tasks(1.0, count),
        diversity=diversity(0.3 * shares[0] * trained),
        gap=gap(1.0 + 2 * (1 - shares[0])) if trained else {},
        scales={
            str(scale): {"tasks": tasks(1.0, count, given), "diversity": diversity(0.1), "gap": {}}
            for scale, given in (scales or {}).items()
        },
        curve=moments,
    )


def whole_replication(seeds: int = 3, count: int = 32) -> list[Run]:
    """Every suite, both settings, both budgets."""
    runs = []
    for setting, experts in (("t2i-edit", ("base", "edit")), ("local-global", ("local", "global"))):
        for arm, shares in MAIN.items():
            how: dict[str, Any] = {"setting": setting, "shares": shares, "count": count}
            if arm in (*(f"source: {name}" for name in experts), "weight merge"):
                runs.append(make_run(arm, budget="none", **how))
            elif not arm.startswith("source"):
                runs += [
                    make_run(arm, seed, budget=budget, curve=True, **how)
                    for seed in range(seeds)
                    for budget in ("updates", "compute")
                ]
        for suite, arms in ABLATIONS.items():
            runs += [
                make_run(arm, seed, setting, shares, suite=suite, budget=budget, count=count)
                for arm, shares in arms.items()
                for seed in range(seeds)
                for budget in ("updates", "compute")
            ]
    for alpha in SCALES:
        shares = {beta: (0.76 - 0.20 * abs(np.log(alpha * beta / 2)),) for beta in SCALES}
        arm, how = ("base", {"budget": "none"}) if alpha == 1 else (f"alpha = {alpha:g}", {})
        beyond = {beta: given for beta, given in shares.items() if beta != 1}
        runs += [
            make_run(arm, seed, "guided", shares[1.0], suite="cfg", count=count, scales=beyond, **how)
            for seed in range(1 if alpha == 1 else seeds)
        ]
    return runs
