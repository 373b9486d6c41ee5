"""Which implementation serves the ops: the extension ("native") or plain torch ("reference")."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from danceopd.ops import _private

Backend = Literal["native", "reference"]
_BACKENDS = ("native", "reference")


def _checked(name: str, source: str) -> bool:
    if name not in _BACKENDS:
        raise ValueError(f"{source} is {name!r}; set it to 'native' or 'reference'.")
    return name == "native"


_PLAIN = (torch.Tensor, torch.nn.Parameter)
native: bool = _checked(os.environ.get("DANCEOPD_OPS") or "native", "The environment variable DANCEOPD_OPS")


@contextmanager
def use(backend: Backend) -> Iterator[None]:
    """Serve the ops from the extension (`"native"`) or plain torch (`"reference"`) inside a `with` block.

    The choice holds for the whole process, autograd's threads included, and is undone at the end of the
    block. The environment variable `DANCEOPD_OPS` sets it from the start.

    Raises:
        ValueError: for any other name.
    """
    global native
    before = native
    native = _checked(backend, "backend")
    try:
        yield
    finally:
        native = before


def takes_native(*tensors: torch.Tensor | None) -> bool:
    """Whether the registered ops should serve these tensors.

    Subclasses (they may want to see every torch call), devices without kernels (meta, mps, ...), function
    transforms and forward-mode differentiation go to the reference.
    """
    if not native or (not torch.compiler.is_compiling() and _private.transformed()):
        return False
    for t in tensors:  # noqa: SIM110  (a generator would cost more than what it asks)
        if t is not None and not (type(t) in _PLAIN and (t.is_cpu or t.is_cuda)):
            return False
    return True
