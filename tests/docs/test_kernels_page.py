"""docs/kernels.md names ops that there are, and its code works on a pipeline."""

from __future__ import annotations

import re
from typing import Any

import torch

from danceopd import ops
from danceopd.schedulers import FusedFlowMatchAB2Scheduler
from tests.families import tiny

from .pages import blocks, read


def test_the_ops_that_are_named_are_there() -> None:
    first = read("docs/kernels.md").partition("each differentiable")[0]
    names = re.findall(r"`(?:opd\.ops\.)?(\w+)`", first)
    assert len(names) == 13 and all(hasattr(ops, name) and hasattr(ops.reference, name) for name in names)


def test_the_sampling_loop_reaches_what_a_guided_flow_holds() -> None:
    loop, _ = blocks("docs/kernels.md", "python")

    def model(sample: torch.Tensor, sigma: float, prompt: str) -> torch.Tensor:
        """Straight to one value, which the prompt chooses."""
        return (sample - (1.0 if prompt else 0.0)) / sigma

    names: dict[str, Any] = {"model": model}
    exec(compile(loop, "kernels.md", "exec"), names)
    assert torch.allclose(names["sample"], torch.tensor(4.5), atol=1e-4)


def test_the_schedulers_go_into_a_pipeline() -> None:
    pipe = tiny.build("sd3")
    _, block = blocks("docs/kernels.md", "python")
    exec(compile(block, "kernels.md", "exec"), {"pipe": pipe})
    assert isinstance(pipe.scheduler, FusedFlowMatchAB2Scheduler)
