"""Evaluation on public benchmarks: images as their evaluators read them, metrics, judges and the report."""

from danceopd.evaluation.base import (
    Benchmark,
    Capability,
    Case,
    Judge,
    JudgeError,
    Measured,
    Metric,
    MetricInfo,
)
from danceopd.evaluation.benchmarks import BENCHMARKS, open_benchmark
from danceopd.evaluation.generate import Generated, generate

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "Capability",
    "Case",
    "Generated",
    "Judge",
    "JudgeError",
    "Measured",
    "Metric",
    "MetricInfo",
    "generate",
    "open_benchmark",
]
