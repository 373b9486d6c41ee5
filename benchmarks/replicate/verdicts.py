"""What makes a claim hold: the interval of a difference or a share, against bounds that are stated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from .stats import Estimate

Verdict = Literal["reproduced", "not reproduced", "undecided", "no data"]
Budget = Literal["updates", "compute"]

MARGIN: Final = 0.03
"""Scores that differ by less count as close: about the standard error of a ground at 64 tasks a category."""
KEPT: Final = 0.95
"""Share of an expert's score from which on nothing was traded away."""
FEWEST_SEEDS: Final = 3
"""Of training; an interval over the prompts of one seed says nothing about the next, and of two little."""


class Rule(NamedTuple):
    """An estimate holds when its interval lies between `low` and `high`, and is refuted when outside."""

    low: float
    high: float
    text: str

    def verdict(self, estimate: Estimate | None) -> Verdict:
        """Of one estimate; None is no data, and fewer than `FEWEST_SEEDS` of training decide nothing."""
        if estimate is None:
            return "no data"
        if 0 < estimate.seeds < FEWEST_SEEDS:
            return "undecided"
        if self.slack(estimate) > 0:
            return "reproduced"
        return "not reproduced" if estimate.high < self.low or estimate.low > self.high else "undecided"

    def is_too_wide(self, estimate: Estimate) -> bool:
        """Whether an interval of this width could not lie within the bounds wherever it was."""
        return estimate.high - estimate.low > self.high - self.low

    def slack(self, estimate: Estimate) -> float:
        """How far within the bounds the interval lies; negative where it reaches beyond them."""
        return min(estimate.low - self.low, self.high - estimate.high)


ABOVE: Final = Rule(0.0, math.inf, "the interval of the difference lies above 0")
NOT_BELOW: Final = Rule(
    -MARGIN, math.inf, f"the interval of the difference lies above -{100 * MARGIN:g} points"
)
CLOSE: Final = Rule(
    -MARGIN, MARGIN, f"the interval of the difference lies within {100 * MARGIN:g} points of 0"
)
NO_TRADE_OFF: Final = Rule(KEPT, math.inf, f"the interval of the share kept lies above {100 * KEPT:g} %")


@dataclass(frozen=True)
class Check:
    """One comparison within a claim.

    Attributes:
        text: what is compared with what, and where.
        rule: when it holds.
        estimate: the difference, or the share where the claim is about one; None without runs.
    """

    text: str
    rule: Rule
    estimate: Estimate | None

    @property
    def verdict(self) -> Verdict:
        """Of this comparison alone."""
        return self.rule.verdict(self.estimate)

    def __str__(self) -> str:
        """What, how much, and its interval."""
        if self.estimate is None:
            return f"{self.text}: no runs"
        value, low, high, seeds = self.estimate
        if self.rule is NO_TRADE_OFF:
            amount = f"keeps {100 * value:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"
        else:
            amount = f"{100 * value:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"
        told = f"{seeds} seed{'s' if seeds > 1 else ''}" if seeds else "nothing trained"
        return f"{self.text}: {amount}, {told}"


class Judgement(NamedTuple):
    """The verdict over all checks of a claim, the check that it hangs on, and both in a sentence."""

    verdict: Verdict
    decisive: Check | None
    sentence: str


def decide(checks: Sequence[Check]) -> Judgement:
    """Reproduced when every check holds, not reproduced when one is refuted, undecided otherwise.

    A check without runs leaves undecided what the others do not refute.
    """
    told = {check: check.estimate for check in checks if check.estimate is not None}
    if not told:
        return Judgement("no data", None, "There are no runs that could tell.")
    missing = [check for check in checks if check not in told]
    left_out = f"; no runs for {_texts(missing)}" if missing else ""
    worst = min(told, key=lambda check: check.rule.slack(told[check]))
    outcomes: tuple[tuple[Verdict, str], ...] = (
        ("not reproduced", "refuted, clearest"),
        ("undecided", "open, furthest from holding"),
    )
    for verdict, word in outcomes:
        if found := [check for check in told if check.verdict == verdict]:
            worst = min(found, key=lambda check: check.rule.slack(told[check]))
            count = f"{len(found)} of {len(told)} checks {word}: " if len(told) > 1 else ""
            wide = (
                sum(check.rule.is_too_wide(told[check]) for check in found) if verdict == "undecided" else 0
            )
            beyond = f"; {wide} of the intervals too wide to hold, whatever the truth is" if wide else ""
            return Judgement(verdict, worst, f"{count}{worst}{left_out}{beyond}.")
    count = f"all {len(told)} checks hold, closest is " if len(told) > 1 else ""
    return Judgement("undecided" if missing else "reproduced", worst, f"{count}{worst}{left_out}.")


def _texts(checks: Sequence[Check]) -> str:
    shown = ", ".join(check.text for check in checks[:3])
    return shown + (f" and {len(checks) - 3} more" if len(checks) > 3 else "")
