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
from danceopd.evaluation.contenders import AnyContender, Contender, FormerStudent, contenders_of_run
from danceopd.evaluation.generate import Generated, generate
from danceopd.evaluation.record import Record, read_evaluation
from danceopd.evaluation.report import Problem, Report, make_report, write_report
from danceopd.evaluation.retention import Comparison, Score, Verdict, compare, verdict
from danceopd.evaluation.run import add_measured, evaluate_benchmark
from danceopd.evaluation.worst import Loss, Losses

__all__ = [
    "BENCHMARKS",
    "AnyContender",
    "Benchmark",
    "Capability",
    "Case",
    "Comparison",
    "Contender",
    "FormerStudent",
    "Generated",
    "Judge",
    "JudgeError",
    "Loss",
    "Losses",
    "Measured",
    "Metric",
    "MetricInfo",
    "Problem",
    "Record",
    "Report",
    "Score",
    "Verdict",
    "add_measured",
    "compare",
    "contenders_of_run",
    "evaluate_benchmark",
    "generate",
    "make_report",
    "open_benchmark",
    "read_evaluation",
    "verdict",
    "write_report",
]
