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
    """While entered, a first SIGINT and a first SIGTERM are only noted in ``signal``; a second acts as usual.

    The two are counted apart, because one wish may come as both: Ctrl-C reaches a worker from the terminal,
    and then its parent ends its workers. In a thread other than the main one Python cannot handle signals,
    and nothing is changed.
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
        first = self.signal is None
        if first:
            self.signal = number
        signal.signal(number, self._before.pop(number))
        if first:
            print(
                "\nstopping: this update is finished and saved first; once more stops at once",
                file=sys.stderr,
            )

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())
