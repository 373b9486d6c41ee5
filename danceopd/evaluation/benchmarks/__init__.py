"""Public benchmarks from users' copies, in the layouts that their evaluators read."""

from danceopd.evaluation.benchmarks.layout import BenchmarkCopy, Inspection, Unpacked
from danceopd.evaluation.benchmarks.registry import BENCHMARKS, known_benchmark, open_benchmark
from danceopd.evaluation.benchmarks.shapesworld import Fulfilled

__all__ = [
    "BENCHMARKS",
    "BenchmarkCopy",
    "Fulfilled",
    "Inspection",
    "Unpacked",
    "known_benchmark",
    "open_benchmark",
]
