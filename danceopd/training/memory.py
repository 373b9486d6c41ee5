"""Running out of memory, told with the settings that change what an update needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from danceopd.training.config import RunConfig
from danceopd.training.errors import OutOfMemoryError


@contextmanager
def out_of_memory_told(run: RunConfig, step: int) -> Iterator[None]:
    """Turn what torch, Python and numpy raise in update `step` into one sentence.

    Raises:
        OutOfMemoryError: it names the settings to change, with their present values.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        together = run.rollout_batch_size or f"null (all {run.samples_per_update})"
        third = "student.gradient_checkpointing=false (to true)"
        if run.student.gradient_checkpointing and run.resolution is not None:
            third = f"resolution={run.resolution} (lower, in a new run)"
        raise OutOfMemoryError(
            f"out of memory on {run.device} in update {step}: change batch_size={run.batch_size} (lower, and "
            f"gradient_accumulation_steps={run.gradient_accumulation_steps} higher by the same factor), "
            f"rollout_batch_size={together} (lower), or {third}; then start the same training again, which "
            "continues."
        ) from error


def _is_out_of_memory(error: Exception) -> bool:
    # On the CPU torch raises a plain RuntimeError.
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)
