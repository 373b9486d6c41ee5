"""Ctrl-C and SIGTERM end a run between two updates instead of in the middle of one, and say what is lost."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from typing_extensions import Self

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A signal came where there was no update to finish; the message says what the same command will find.

    Args:
        number: of the signal.
        told: the message.
    """

    def __init__(self, number: int, told: str) -> None:
        self.number = number
        super().__init__(told)


@contextmanager
def stopping_at_once(told: str) -> Iterator[None]:
    """Within it SIGINT and SIGTERM raise `Interrupted`, saying `told`; one that is ignored stays ignored.

    Where signals cannot be handled, in a thread other than the main one, nothing is changed.
    """

    def stop(received: int, frame: FrameType | None) -> None:
        raise Interrupted(received, told)

    before: dict[signal.Signals, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for kind in _SIGNALS:
                if signal.getsignal(kind) != signal.SIG_IGN:
                    before[kind] = signal.signal(kind, stop)
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


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
            for number in _SIGNALS:
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
