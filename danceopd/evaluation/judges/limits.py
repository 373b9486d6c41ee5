"""When a request may go out, and when a failed one may go out again."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from threading import Lock
from typing import Final

_FIRST, _LONGEST = 1.0, 60.0  # seconds
LONGEST_ASKED: Final = 600.0
"""Seconds that an endpoint may ask to wait; more than that is a closed door."""


class Pace:
    """Spaces requests evenly; threads may share one.

    Args:
        requests_per_minute: None does not hold anything back.
        sleep: waits for seconds.
    """

    def __init__(
        self, requests_per_minute: float | None, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        if requests_per_minute is not None and not requests_per_minute > 0:
            raise ValueError(f"requests_per_minute must be greater than 0 but is {requests_per_minute}.")
        self._gap = 60 / requests_per_minute if requests_per_minute else 0.0
        self._sleep = sleep
        self._lock = Lock()
        self._next = 0.0

    def wait(self) -> None:
        """Return when it is this request's turn."""
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next)
            self._next = start + self._gap
        if start > now:
            self._sleep(start - now)

    def hold(self, seconds: float) -> None:
        """Let nobody's turn come before ``seconds`` have passed: the endpoint said so."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


def backoff(attempt: int) -> float:
    """Seconds until a request goes out again that failed ``attempt`` times (from 1).

    Doubles up to a minute; the upper half is drawn, so that many that failed together do not return together.
    """
    return min(_LONGEST, _FIRST * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0)


def asked_to_wait(header: str | None) -> float:
    """Seconds that the header Retry-After asks for, as a number or a date; 0 without one that can be read."""
    if header is None:
        return 0.0
    try:
        seconds = float(header)
    except ValueError:
        try:
            then = parsedate_to_datetime(header)
        except ValueError:
            return 0.0
        if then.tzinfo is None:
            then = then.replace(tzinfo=timezone.utc)
        seconds = (then - datetime.now(timezone.utc)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0
