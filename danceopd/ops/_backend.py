"""Which implementation serves the ops: the extension ("native") or plain torch ("reference")."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
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


class _Choice:
    """The backend as `use` has chosen it, and the one to go back to."""

    def __init__(self, chosen: bool) -> None:
        self._chosen, self._before = chosen, native
        self.__enter__()

    def __enter__(self) -> None:
        global native
        native = self._chosen

    def __exit__(self, *error: object) -> None:
        global native
        native = self._before


def use(backend: Backend) -> AbstractContextManager[None]:
    """Serve the ops from the extension (`"native"`) or plain torch (`"reference"`) from this call on.

    As a statement it holds until the next call; as ``with use(...):`` until the end of the block, which goes
    back to what was served before the call, so that blocks nest. The choice is one for the whole process,
    autograd's threads included: two threads that choose at once get in each other's way. The environment
    variable `DANCEOPD_OPS` sets it from the start.

    Raises:
        ValueError: for any other name.
    """
    return _Choice(_checked(backend, "backend"))


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
