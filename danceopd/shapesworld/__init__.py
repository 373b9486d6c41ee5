"""ShapesWorld: coloured shapes, few enough to learn on two CPU cores, exact enough to score without a judge.

It is the embedded default family (`load_family("shapesworld")`), with experts that ship with the package: a
text-to-image base and experts for local, global and joint editing.
"""

from .diversity import Diversity, measure_diversity
from .evaluate import Scores, evaluate, held_out_tasks
from .family import ShapesWorldFamily, as_example
from .render import render
from .scorer import read, score
from .tasks import GROUNDS, Task, TaskSet
from .weights import EXPERTS
from .world import Scene, Thing

__all__ = [
    "EXPERTS",
    "GROUNDS",
    "Diversity",
    "Scene",
    "Scores",
    "ShapesWorldFamily",
    "Task",
    "TaskSet",
    "Thing",
    "as_example",
    "evaluate",
    "held_out_tasks",
    "measure_diversity",
    "read",
    "render",
    "score",
]
