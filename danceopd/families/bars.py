"""Progress bars of transformers and diffusers while they load: where somebody watches, and nowhere else."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Any, Final

_HIDDEN: Final[ContextVar[bool]] = ContextVar("hidden", default=False)
_SWITCH: Final = "HF_HUB_DISABLE_PROGRESS_BARS"


@contextmanager
def hidden_bars() -> Iterator[None]:
    """Within it models load without bars on a terminal too."""
    before = _HIDDEN.set(True)
    try:
        yield
    finally:
        _HIDDEN.reset(before)


@contextmanager
def bars_if_watched(library: str) -> Iterator[None]:
    """Within it transformers or diffusers, as `library` says, draws bars on a terminal alone.

    A log would keep every state of a bar as text. Whoever sets `HF_HUB_DISABLE_PROGRESS_BARS` has chosen, and
    so has a program that has turned the library's bars off.
    """
    watched = sys.stderr.isatty() and not _HIDDEN.get()
    if watched or library not in ("transformers", "diffusers") or _SWITCH in os.environ:
        yield
        return
    hub: Any = import_module("huggingface_hub.utils")
    transformers = library == "transformers"
    logging: Any = (
        import_module("transformers.utils.logging")
        if transformers
        else import_module("diffusers.utils.logging")
    )
    if not logging.is_progress_bar_enabled():
        yield
        return
    downloads_hidden = hub.are_progress_bars_disabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()  # that of transformers turns those of downloads on, too
        if downloads_hidden:
            hub.disable_progress_bars()
