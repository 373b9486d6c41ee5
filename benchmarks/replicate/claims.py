"""Every claim of the paper as a function of the runs: reproduced, not reproduced, undecided, or no data.

A claim is a list of checks, each a difference with its interval; `verdicts` says what follows from them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from .arms import (
    BASELINES,
    GROUNDS,
    MAIN,
    REFERENCE,
    REFERENCES,
    expert_of,
    label_of,
    runs_of,
    settings_of,
)
from .guidance import compositions
from .records import Run
from .stats import Outcomes, difference, kept_share, outcomes
from .verdicts import (
    ABOVE,
    CLOSE,
    KEPT,
    NO_TRADE_OFF,
    NOT_BELOW,
    Budget,
    Check,
    Rule,
    Verdict,
    decide,
)


@dataclass(frozen=True)
class Claim:
    """A claim, and how it is checked.

    Attributes:
        name: in tables.
        statement: what is claimed.
        paper: the numbers that it rests on there.
        rule: when each of its checks holds.
        check: makes the checks of a budget.
        budgets: where the comparison is another one at equal compute.
    """

    name: str
    statement: str
    paper: str
    rule: Rule
    check: Callable[[Sequence[Run], Budget], list[Check]]
    budgets: tuple[Budget, ...] = ("updates", "compute")


@dataclass(frozen=True)
class Finding:
    """What the runs say about a claim at a budget.

    Attributes:
        claim: what was judged.
        budget: what the arms have in common.
        verdict: over all checks.
        decisive: the check that the verdict hangs on; None without data.
        sentence: the verdict in words.
        checks: all of them.
    """

    claim: Claim
    budget: Budget
    verdict: Verdict
    decisive: Check | None
    sentence: str
    checks: tuple[Check, ...]


def judge(runs: Sequence[Run]) -> list[Finding]:
    """Every claim at every budget that it is about, in the order of the paper."""
    return [_finding(claim, budget, runs) for claim in CLAIMS for budget in claim.budgets]


Checks = Callable[[Sequence[Run], Budget], list[Check]]


def _arm(runs: Sequence[Run], suite: str, setting: str, arm: str, budget: Budget) -> Outcomes | None:
    found = runs_of(runs, suite, setting, arm, budget)
    return outcomes(found) if found else None


def _versus(suite: str, rule: Rule, *pairs: tuple[str, str], settings: Sequence[str] = ()) -> Checks:
    """Each pair of arms in each of `settings`, or in each where there are runs of one pair."""

    def check(runs: Sequence[Run], budget: Budget) -> list[Check]:
        checks = []
        for setting in settings or settings_of(runs):
            found = []
            for pair in pairs:
                arm, other = (_arm(runs, suite, setting, name, budget) for name in pair)
                text = f"{label_of(pair[0], suite)} against {label_of(pair[1], suite)} in {setting}"
                found.append(Check(text, rule, difference(arm, other) if arm and other else None))
            if settings or any(check.estimate for check in found):
                checks += found
        return checks

    return check


def _usual_against(suite: str, rule: Rule, *others: str, settings: Sequence[str] = ()) -> Checks:
    """The reference of a suite against some of its arms."""
    return _versus(suite, rule, *((REFERENCES[suite], other) for other in others), settings=settings)


def _no_trade_off(suite: str) -> Checks:
    """The reference of a suite on each ground against the expert that teaches it."""

    def check(runs: Sequence[Run], budget: Budget) -> list[Check]:
        checks = []
        for setting, grounds in GROUNDS.items():
            student = _arm(runs, suite, setting, REFERENCES[suite], budget)
            for ground in grounds:
                expert = _arm(runs, MAIN, setting, expert_of(ground), budget)
                estimate = kept_share(student, expert, ground) if student and expert else None
                text = f"{label_of(REFERENCES[suite], suite)} on {ground} in {setting}"
                checks.append(Check(text, NO_TRADE_OFF, estimate))
        return checks

    return check


def _longer(runs: Sequence[Run], budget: Budget) -> list[Check]:
    """The same method after more updates and after the usual number."""
    checks = []
    for setting in GROUNDS:
        more, usual = (_arm(runs, suite, setting, REFERENCE, budget) for suite in ("longer", MAIN))
        text = f"{label_of(REFERENCE)} in {setting}"
        checks.append(Check(text, ABOVE, difference(more, usual) if more and usual else None))
    return checks


def _in_the_end(runs: Sequence[Run], budget: Budget) -> list[Check]:
    """Against what the suite has at a budget: DiffusionOPD's price keeps it out of equal updates."""
    others = ["joint training", "offpolicy", *(["diffusionopd"] if budget == "compute" else [])]
    return _usual_against("longer", ABOVE, *others, settings=tuple(GROUNDS))(runs, budget)


Cells = Mapping[tuple[float, float], Outcomes]


def _surfaces(runs: Sequence[Run]) -> list[Cells]:
    """The outcomes of all compositions of each setting that has some."""
    surfaces: list[Cells] = []
    for setting in settings_of(runs):
        cells = {scales: outcomes(found) for scales, found in compositions(runs, setting).items()}
        if len(cells) > 1:
            surfaces.append(cells)
    return surfaces


def _composed(runs: Sequence[Run], budget: Budget) -> list[Check]:
    """The best cell with both scales against none; chosen on half of the tasks, judged on the other half."""
    checks = []
    for cells in _surfaces(runs):
        both = {scales: cells[scales] for scales in cells if min(scales) > 1}
        if both and _PLAIN in cells:
            best = _best(both)
            text = f"{_told(best)} (best on half of the tasks) against no guidance"
            checks.append(Check(text, ABOVE, difference(cells[best].half(1), cells[_PLAIN].half(1))))
    return checks


def _both_scales(runs: Sequence[Run], budget: Budget) -> list[Check]:
    """The best cell with both scales against the best with one, all chosen in the same way."""
    checks = []
    for cells in _surfaces(runs):
        both = {scales: cells[scales] for scales in cells if min(scales) > 1}
        for one in (0, 1):
            alone = {scales: cells[scales] for scales in cells if scales[one] > 1 == scales[1 - one]}
            if both and alone:
                best, other = _best(both), _best(alone)
                estimate = difference(cells[best].half(1), cells[other].half(1))
                checks.append(Check(f"{_told(best)} against {_told(other)}", ABOVE, estimate))
    return checks


def _over_guided(runs: Sequence[Run], budget: Budget) -> list[Check]:
    """The best cell against the one with the largest product, in the same way."""
    checks = []
    for cells in _surfaces(runs):
        best, most = _best(cells), max(cells, key=lambda scales: scales[0] * scales[1])
        estimate = difference(cells[best].half(1), cells[most].half(1))
        checks.append(Check(f"{_told(best)} against {_told(most)}", ABOVE, estimate))
    return checks


def _product(runs: Sequence[Run], budget: Budget) -> list[Check]:
    """Cells of the same product are close, whichever of the two factors is the larger."""
    return [
        Check(f"{_told(one)} against {_told(two)}", CLOSE, difference(cells[one], cells[two]))
        for cells in _surfaces(runs)
        for one in cells
        for two in cells
        if one[0] > two[0] and abs(one[0] * one[1] - two[0] * two[1]) < 1e-6
    ]


_PLAIN: Final = (1.0, 1.0)


def _told(scales: tuple[float, float]) -> str:
    return "alpha {:g}, beta {:g}".format(*scales)


def _best(cells: Cells) -> tuple[float, float]:
    return max(sorted(cells), key=lambda scales: float(cells[scales].half(0).scores().mean()))


CLAIMS: Final = (
    Claim(
        "no trade-off",
        f"The student keeps at least {100 * KEPT:g} % of every expert.",
        "5.347 / 0.849 against experts of 4.930 / 0.832; 5.498 against experts of 5.095 and 3.750",
        NO_TRADE_OFF,
        _no_trade_off(MAIN),
        ("updates",),
    ),
    Claim(
        "more updates help",
        "Four times as many updates are above the usual number.",
        "not tried",
        ABOVE,
        _longer,
        ("updates",),
    ),
    Claim(
        "no trade-off in the end",
        f"After four times as many updates the student keeps at least {100 * KEPT:g} % of every expert.",
        "as above",
        NO_TRADE_OFF,
        _no_trade_off("longer"),
        ("updates",),
    ),
    Claim(
        "above every baseline",
        "DanceOPD is above every baseline in both settings.",
        "GEdit 5.347 against at most 4.947 (T2I + edit) and 5.498 against at most 4.736 (local + global)",
        ABOVE,
        _usual_against(MAIN, ABOVE, *BASELINES, settings=tuple(GROUNDS)),
    ),
    Claim(
        "above the others in the end",
        "After four times as many updates DanceOPD is above joint training and off-policy distillation, and, "
        "for the same compute, above DiffusionOPD.",
        "as above",
        ABOVE,
        _in_the_end,
    ),
    Claim(
        "on-policy above off-policy",
        "Matching on the student's own states is above matching on noised data.",
        "5.347 / 0.849 against 4.528 / 0.818; 5.498 against 4.736",
        ABOVE,
        _usual_against(MAIN, ABOVE, "offpolicy", settings=tuple(GROUNDS)),
    ),
    Claim(
        "hard above soft",
        "One teacher per sample is above the weighted mean of all.",
        "5.751 against 4.994",
        ABOVE,
        _usual_against("routing", ABOVE, "soft mixture"),
    ),
    Claim(
        "low noise above others",
        "Queries at low noise are above middle, high and uniform ones.",
        "5.751 against 4.649 (middle) and 4.813 (high)",
        ABOVE,
        _usual_against("query", ABOVE, "middle", "high", "uniform"),
    ),
    Claim(
        "one query suffices",
        "One query per rollout is not below four or all of them.",
        "5.751 against 5.330 (K = 4) and 5.127 (K = 16)",
        NOT_BELOW,
        _usual_against("k", NOT_BELOW, "K = 4", "K = 8 (dense)"),
    ),
    Claim(
        "rollout steps hardly matter",
        "Students of rollouts with other numbers of steps are close.",
        "8, 16, 20 and 28 steps all close",
        CLOSE,
        _usual_against("steps", CLOSE, "16 steps", "28 steps"),
    ),
    Claim(
        "four steps do as well",
        "Students of rollouts of four steps are close as well.",
        "not tried",
        CLOSE,
        _usual_against("steps", CLOSE, "4 steps"),
    ),
    Claim(
        "plain MSE suffices",
        "Unweighted MSE is not below sigma-weighted and KL-weighted losses.",
        "MSE is best of all losses tried",
        NOT_BELOW,
        _versus("loss", NOT_BELOW, ("mse", "sigma-weighted"), ("mse, shift 3", "kl-weighted, shift 3")),
    ),
    Claim(
        "a better start ends better",
        "A student that starts from an expert or from the merge is above one that starts from the base.",
        "no number",
        ABOVE,
        _versus("init", ABOVE, ("an expert", "base"), ("weight merge", "base")),
    ),
    Claim(
        "guidance composes",
        "Some composition of absorbed and external guidance is above none.",
        "best composition 5.833 against 5.751",
        ABOVE,
        _composed,
        ("updates",),
    ),
    Claim(
        "both guidances above one",
        "The best composition of both is above the best absorbed and the best external guidance alone.",
        "no number",
        ABOVE,
        _both_scales,
        ("updates",),
    ),
    Claim(
        "too much guidance hurts",
        "The best scales are above the largest.",
        "5.833 against 4.015 at a product of 49",
        ABOVE,
        _over_guided,
        ("updates",),
    ),
    Claim(
        "guidance multiplies",
        "Absorbed and external scales of the same product give close scores.",
        "the two roughly multiply",
        CLOSE,
        _product,
        ("updates",),
    ),
)


def _finding(claim: Claim, budget: Budget, runs: Sequence[Run]) -> Finding:
    checks = tuple(claim.check(runs, budget))
    return Finding(claim, budget, *decide(checks), checks)
