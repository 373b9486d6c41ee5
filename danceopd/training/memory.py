"""Running out of memory, told with the settings that change what an update needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

from danceopd.training.config import RunConfig
from danceopd.training.errors import OutOfMemoryError

# In what torch raises as a plain RuntimeError: on the CPU, from cuBLAS, from CUDA past torch's allocator.
_SIGNS: Final = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDA error: out of memory")


@contextmanager
def no_room_for_pictures_told(run: RunConfig, step: int) -> Iterator[None]:
    """Turn running out of memory while callbacks draw, after `step` updates, into one sentence.

    Raises:
        OutOfMemoryError: it names the settings of pictures. Where none are drawn, the error stays as it is.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if run.validation is None or not _is_out_of_memory(error):
            raise
        fewer = (
            "prompts (fewer)" if run.validation.prompts is not None else f"rows={run.validation.rows} (lower)"
        )
        smaller = (
            f"validation.{fewer} or batch_size={run.batch_size} (lower, and gradient_accumulation_steps="
            f"{run.gradient_accumulation_steps} higher by the same factor)"
        )
        if run.resolution is not None:
            smaller += f", or resolution={run.resolution} (lower, in a new run)"
        raise OutOfMemoryError(
            f"out of memory on {run.device} while the pictures of validation were drawn after update {step}: "
            f"change {smaller}, or set validation=null; then start the same training again, which continues."
        ) from error


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
        lower = "to a number, lower than the one measured" if together == "auto" else "lower"
        third = "student.gradient_checkpointing=false (to true)"
        if run.student.gradient_checkpointing and run.resolution is not None:
            third = f"resolution={run.resolution} (lower, in a new run)"
        raise OutOfMemoryError(
            f"out of memory on {run.device} in update {step}: change batch_size={run.batch_size} (lower, and "
            f"gradient_accumulation_steps={run.gradient_accumulation_steps} higher by the same factor), "
            f"rollout_batch_size={together} ({lower}), or {third}; then start the same training again, which "
            "continues."
        ) from error


def _is_out_of_memory(error: Exception) -> bool:
    told = str(error)
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(sign in told for sign in _SIGNS)
