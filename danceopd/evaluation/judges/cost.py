"""What judging costs: counted as it is paid, and estimated before."""

from __future__ import annotations

import math
from dataclasses import dataclass
from threading import Lock
from typing import Final

_PATCH: Final = 28  # pixels a side that many vision models make one token of
_LETTERS: Final = 4  # of a token of English text, as a rule of thumb
_ANSWER: Final = 120  # tokens: a short reasoning and the scores


@dataclass(frozen=True)
class Usage:
    """Tokens of a request, as the endpoint counts them."""

    prompt_tokens: int
    completion_tokens: int

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens, self.completion_tokens + other.completion_tokens
        )


@dataclass(frozen=True)
class Prices:
    """What the endpoint asks for a million tokens.

    Attributes:
        prompt: for a million tokens that it reads.
        completion: for a million tokens that it writes.
        currency: of both.
    """

    prompt: float
    completion: float
    currency: str = "USD"

    def of(self, usage: Usage) -> float:
        """What tokens cost, in `currency`."""
        return (usage.prompt_tokens * self.prompt + usage.completion_tokens * self.completion) / 1e6


@dataclass(frozen=True)
class Spent:
    """What a judge has paid for.

    Attributes:
        answers: that came from the endpoint.
        uncounted: those among them without a count of tokens.
        remembered: answers that came from the cache, at no cost.
        usage: tokens of all counted answers.
        cost: of `usage`; None without prices.
    """

    answers: int
    uncounted: int
    remembered: int
    usage: Usage
    cost: float | None


class Bill:
    """Counts answers; threads may share one."""

    def __init__(self, prices: Prices | None = None) -> None:
        self.prices = prices
        self._lock = Lock()
        self._answers = self._uncounted = self._remembered = 0
        self._usage = Usage(0, 0)

    def paid(self, usage: Usage | None) -> None:
        """An answer came from the endpoint, with its count of tokens where it gives one."""
        with self._lock:
            self._answers += 1
            if usage is None:
                self._uncounted += 1
            else:
                self._usage += usage

    def remembered(self) -> None:
        """An answer came from the cache."""
        with self._lock:
            self._remembered += 1

    def spent(self) -> Spent:
        """The sums so far."""
        with self._lock:
            cost = self.prices.of(self._usage) if self.prices else None
            return Spent(self._answers, self._uncounted, self._remembered, self._usage, cost)


@dataclass(frozen=True)
class Estimate:
    """What judging would take, told without a request.

    Attributes:
        images: that would be judged; those that the rubric does not apply to are left out.
        answers: that are still to be paid for.
        remembered: answers that are in the cache.
        usage: tokens of `answers`: the mean of the cached answers to the same question where there are some,
            else a rule of thumb (a token per 28 x 28 pixels and per four letters, 120 for the answer).
        cost: of `usage`; None without prices.
        problems: images that cannot be judged because a file cannot be read.
    """

    images: int
    answers: int
    remembered: int
    usage: Usage
    cost: float | None
    problems: int


def usual_usage(text: str, sizes: list[tuple[int, int]]) -> Usage:
    """What a request takes by a rule of thumb, for a text and images of these sizes in pixels."""
    seen = sum(math.ceil(width / _PATCH) * math.ceil(height / _PATCH) for width, height in sizes)
    return Usage(math.ceil(len(text) / _LETTERS) + seen, _ANSWER)
