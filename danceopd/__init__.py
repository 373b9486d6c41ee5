"""One flow-matching student that keeps what several frozen experts can do.

Names are loaded when they are first used, so that ``import danceopd`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from danceopd import evaluation, flow, ops, schedulers
    from danceopd.families import StudentConfig, Teacher, load_family
    from danceopd.sampling import sample
    from danceopd.training import (
        Callback,
        DanceOPDTrainer,
        QuerySettings,
        Route,
        RunConfig,
        TrainConfig,
        ValidationSettings,
        load_run_config,
        load_student,
    )

__version__ = "0.1.0"

__all__ = [
    "Callback",
    "DanceOPDTrainer",
    "QuerySettings",
    "Route",
    "RunConfig",
    "StudentConfig",
    "Teacher",
    "TrainConfig",
    "ValidationSettings",
    "__version__",
    "evaluation",
    "flow",
    "load_family",
    "load_run_config",
    "load_student",
    "ops",
    "sample",
    "schedulers",
]

_HOMES = {
    "danceopd.families": ("StudentConfig", "Teacher", "load_family"),
    "danceopd.sampling": ("sample",),
    "danceopd.training": (
        "Callback",
        "DanceOPDTrainer",
        "QuerySettings",
        "Route",
        "RunConfig",
        "TrainConfig",
        "ValidationSettings",
        "load_run_config",
        "load_student",
    ),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in ("evaluation", "flow", "ops", "schedulers"):
        return import_module(f"danceopd.{name}")
    if name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'danceopd' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
