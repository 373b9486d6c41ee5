"""Ctrl-C and SIGTERM end a run between two updates instead of in the middle of one."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self


class GracefulStop:
    """While entered, the first SIGINT or SIGTERM is only noted in ``signal``; a second one acts as usual.

    In a thread other than the main one Python cannot handle signals, and nothing is changed.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()
        print("\nstopping: this update is finished and saved first; once more stops at once", file=sys.stderr)

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())
