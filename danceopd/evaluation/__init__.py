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

__all__ = ["Benchmark", "Capability", "Case", "Judge", "JudgeError", "Measured", "Metric", "MetricInfo"]
