"""Scores by models that see images, by the evaluators of others, and how far two judges agree."""

from __future__ import annotations

from danceopd.evaluation.judges.agreement import Agreement, Share, compare_judges
from danceopd.evaluation.judges.batch import judge_images
from danceopd.evaluation.judges.cache import AnswerCache
from danceopd.evaluation.judges.client import JudgeSilent, JudgeUnavailable, NoAnswer, VisionClient
from danceopd.evaluation.judges.cost import Estimate, Prices, Spent, Usage
from danceopd.evaluation.judges.handover import (
    EVALSCOPE,
    GENEVAL,
    read_evalscope,
    read_geneval,
    write_evalscope,
)
from danceopd.evaluation.judges.judge import Refused, Useless, VisionJudge
from danceopd.evaluation.judges.rubric import Rubric, load_rubric

__all__ = [
    "EVALSCOPE",
    "GENEVAL",
    "Agreement",
    "AnswerCache",
    "Estimate",
    "JudgeSilent",
    "JudgeUnavailable",
    "NoAnswer",
    "Prices",
    "Refused",
    "Rubric",
    "Share",
    "Spent",
    "Usage",
    "Useless",
    "VisionClient",
    "VisionJudge",
    "compare_judges",
    "judge_images",
    "load_rubric",
    "read_evalscope",
    "read_geneval",
    "write_evalscope",
]
