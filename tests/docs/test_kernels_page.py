"""docs/kernels.md names ops that there are, and its code works on a pipeline."""

from __future__ import annotations

import re

from danceopd import ops
from danceopd.schedulers import FusedFlowMatchAB2Scheduler
from tests.families import tiny

from .pages import blocks, read


def test_the_ops_that_are_named_are_there() -> None:
    first = read("docs/kernels.md").partition("each differentiable")[0]
    names = re.findall(r"`(?:opd\.ops\.)?(\w+)`", first)
    assert len(names) == 13 and all(hasattr(ops, name) and hasattr(ops.reference, name) for name in names)


def test_the_schedulers_go_into_a_pipeline() -> None:
    pipe = tiny.build("sd3")
    (block,) = blocks("docs/kernels.md", "python")
    exec(compile(block, "kernels.md", "exec"), {"pipe": pipe})
    assert isinstance(pipe.scheduler, FusedFlowMatchAB2Scheduler)
