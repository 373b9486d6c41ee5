"""`torch.compile` of the blocks that a model repeats."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import nn

from danceopd.flow import AdapterField, ModelField, VelocityField, models_of, replayed
from danceopd.settings import ConfigError

BACKEND: Final[str | Callable[..., Any]] = "inductor"
_VERSIONS: Final = 128
"""Compiled versions of one kind of block at most: one for each adapter, with gradient and without, for one
sample and for several. torch's own limit of 8 is meant for models without adapters."""


def compile_fields(
    mode: str, student: VelocityField, teachers: Iterable[object], device: torch.device
) -> Any:
    """Compile what the key `compile` says, and return the field that is to be called for the student.

    Args:
        mode: the value of the key.
        student: its field, as the family made it.
        teachers: fields whose models are compiled too.
        device: where they compute.

    Raises:
        ConfigError: the models have no repeated blocks, or there is no CUDA for graphs.
    """
    if mode == "none":
        return student
    if mode == "graphs" and device.type != "cuda":
        raise ConfigError(f"compile='graphs' needs a CUDA device, got device='{device}': set it to 'blocks'.")
    compile_blocks([student, *teachers])
    if mode == "blocks":
        return student
    if isinstance(student, (ModelField, AdapterField)):
        return replayed(student)
    raise ConfigError(
        f"compile='graphs' cannot record a student's field that is a {type(student).__name__}: set it to "
        "'blocks'."
    )


def tell_compiling() -> None:
    """One line on stderr, as minutes may follow in which nothing else is told."""
    print("danceopd: compiling the models' blocks, which may take minutes", file=sys.stderr, flush=True)


def compile_blocks(fields: Iterable[object]) -> None:
    """Compile the repeated blocks of the models behind some fields; what they compute stays, to rounding.

    All blocks of one kind share their code, which is made when a block is first called: it takes the time of
    a few blocks, not of a model. It counts with any number of samples and tokens, and is made anew where
    something else changes, such as the active adapter; both versions stay. Models keep their classes and the
    names of their weights.

    Raises:
        ConfigError: a model has no repeated blocks.
    """
    models = {id(model): model for field in fields for model in models_of(field)}
    for model in models.values():
        blocks = repeated_blocks(model)
        if not blocks:
            raise ConfigError(
                f"compile needs a model of repeated blocks, but {type(model).__name__} has no list of them: "
                "set compile to 'none'."
            )
        for block in blocks:
            # Whole, so that what cannot be compiled is an error and not a slow block.
            block.compile(backend=BACKEND, fullgraph=True, dynamic=True)
    _set_limits()


def repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """The members of the lists of modules that `model` itself holds."""
    return [block for part in model.children() if isinstance(part, nn.ModuleList) for block in part]


def _set_limits() -> None:
    import torch._dynamo.config as dynamo
    import torch.fx.experimental._config as shapes

    # By their first names, which later versions of torch still know.
    dynamo.cache_size_limit = max(dynamo.cache_size_limit, _VERSIONS)
    dynamo.accumulated_cache_size_limit = max(dynamo.accumulated_cache_size_limit, 8 * _VERSIONS)
    dynamo.fail_on_cache_limit_hit = True  # in place of running uncompiled without a word
    # Two lengths that happen to be equal once are no reason for another version when they differ.
    shapes.use_duck_shape = False


@contextmanager
def compile_failures_told(mode: str) -> Iterator[None]:
    """Turn what `torch.compile` raises into one sentence.

    Args:
        mode: the value of the key.

    Raises:
        ConfigError: it names the key and what to set it to.
    """
    try:
        yield
    except Exception as error:
        if mode == "none" or not _is_of_compiler(error):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = " ".join(lines[:2])[:200].rstrip(".:")
        raise ConfigError(
            f"compile='{mode}' does not work here ({type(error).__name__}: {reason}): set compile to 'none', "
            "which computes the same."
        ) from error


def _is_of_compiler(error: Exception) -> bool:
    homes = ("torch._dynamo.", "torch._inductor.")
    return any(kind.__module__.startswith(homes) for kind in type(error).__mro__)
