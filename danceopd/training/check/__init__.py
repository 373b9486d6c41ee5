"""Everything about a run that can be found wrong before it trains, and what it will cost."""

from danceopd.training.check.report import (
    Behaviour,
    CheckReport,
    Estimate,
    Memory,
    Resources,
    RouteRows,
    SelfTest,
    TeacherFacts,
)
from danceopd.training.check.run import CheckedRun, check_run

__all__ = [
    "Behaviour",
    "CheckReport",
    "CheckedRun",
    "Estimate",
    "Memory",
    "Resources",
    "RouteRows",
    "SelfTest",
    "TeacherFacts",
    "check_run",
]
