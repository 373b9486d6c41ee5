"""Tables: what each suite found, the verdicts, and what was seen on the way; as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from .arms import MAIN, REFERENCES, VALIDATED, arms_of, expert_of, label_of, runs_of, settings_of
from .claims import Finding
from .guidance import with_compositions
from .paper import published_of, ranks
from .records import COMPUTE, Run
from .stats import Estimate, difference, digits, kept_share, mean_and_sd, outcomes, score

PROPERTIES: Final = ("background", "position", "size", "layout")
"""Of diversity, in the order in which a cell of Markdown names them."""

READING: Final = (
    "Scores: percent of test tasks fulfilled, mean ± standard deviation over seeds. Difference of means and "
    "share of the expert's score kept: with 95 % bootstrap intervals over seeds and prompts, paired. "
    f"Diversity: entropy over that of the truth, {' / '.join(PROPERTIES)}. Compute of "
    f"training: {COMPUTE}. Ranks: here / in the paper, among arms that both have numbers of."
)
"""How the table of a suite is read."""

HALF_WAY: Final = 0.5
"""The sigma that parts high noise from low."""

_DIGITS: Final = 6  # significant ones of numbers in CSV and JSON: more than the bootstrap knows


@dataclass(frozen=True)
class Table:
    """A table in two forms: `cells` to be read, `rows` to be computed with.

    Attributes:
        name: of its files.
        title: what is in it.
        note: how it is read.
        columns: heads of the cells.
        cells: one list per row.
        marked: positions of the rows of the reference.
        rows: flat mappings.
        suite: that it is of, if of one.
    """

    name: str
    title: str
    note: str
    columns: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]
    marked: frozenset[int]
    rows: tuple[Mapping[str, Any], ...]
    suite: str = ""

    def to_markdown(self) -> str:
        """With title and note."""
        head = [f"# {self.title}", "", self.note, ""]
        lines = [
            _line(self.columns),
            _line(["---", *["---:" if self.suite else "---"] * (len(self.columns) - 1)]),
        ]
        return "\n".join([*head, *lines, *map(_line, self.cells)]) + "\n"

    def to_csv(self) -> str:
        """All numbers, one line per row; empty where there is none."""
        buffer = io.StringIO()
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        writer = csv.DictWriter(buffer, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return buffer.getvalue()


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def suites_of(runs: Sequence[Run]) -> list[str]:
    """The suites that there are runs of, those of the paper first."""
    found = {run.suite for run in runs}
    return [*(suite for suite in REFERENCES if suite in found), *sorted(found - set(REFERENCES))]


def suite_tables(runs: Sequence[Run]) -> list[Table]:
    """One table per suite and setting."""
    runs = with_compositions(runs)
    return [
        suite_table(runs, suite, setting)
        for suite in suites_of(runs)
        for setting in settings_of([run for run in runs if run.suite == suite])
    ]


def suite_table(runs: Sequence[Run], suite: str, setting: str) -> Table:
    """Every arm of a suite in one setting, at each budget that it was run with."""
    mine = [run for run in runs if run.suite == suite]
    groups = [
        (arm, budget, found)
        for arm in arms_of(mine, suite, setting)
        for budget in ("none", "updates", "compute")
        if (found := [r for r in mine if (r.setting, r.arm, r.budget) == (setting, arm, budget)])
    ]
    grounds = list(dict.fromkeys(ground for _, _, found in groups for run in found for ground in run.tasks))
    rows = [_row(runs, found) for _, _, found in groups]
    _add_ranks(rows, suite, setting)
    papers = [f"rank {table.metric}" for table in published_of(suite, setting)]
    columns = [
        "arm",
        "budget",
        "seeds",
        *grounds,
        "mean",
        *([f"mean - {label_of(REFERENCES[suite])}"] if suite in REFERENCES else []),
        *(f"{ground} kept %" for ground in grounds if suite not in VALIDATED),
        *(f"{ground} diversity" for ground in grounds),
        "updates",
        "lr",
        "compute",
        "CPU s",
        *papers,
    ]
    cells = tuple(tuple(_cells(row, suite, grounds, papers)) for row in rows)
    marked = frozenset(place for place, row in enumerate(rows) if row["arm"] == REFERENCES.get(suite))
    return Table(
        f"{suite}-{setting}",
        f"{suite}, {setting}",
        of_validation(READING) if suite in VALIDATED else READING,
        tuple(columns),
        cells,
        marked,
        tuple(rows),
        suite,
    )


def of_validation(reading: str) -> str:
    """How a table of scores on validation tasks is read."""
    return reading.replace("test tasks", "validation tasks")


def _row(runs: Sequence[Run], found: Sequence[Run]) -> dict[str, Any]:
    suite, setting, arm, budget = found[0].suite, found[0].setting, found[0].arm, found[0].budget
    own = outcomes(found)
    row: dict[str, Any] = {
        "setting": setting,
        "arm": arm,
        "budget": budget,
        "seeds": len(found) if own.trained else "",
        "updates": round(sum(run.updates for run in found) / len(found)),
        "learning_rate": found[0].learning_rate,
        "compute": _mean([run.compute for run in found]),
        "seconds": _mean([run.seconds for run in found]),
        "diverged": sum(run.diverged is not None for run in found),
    }
    for ground in (*own.tasks, None):
        name = ground or "mean"
        mean, sd = mean_and_sd(own.scores(ground))
        row |= {name: _round(mean), f"{name}_sd": "" if sd is None else _round(sd)}
        row |= _interval(f"{name}", score(own, ground), value=False)
    usual = REFERENCES.get(suite, "")
    reference = runs_of(runs, suite, setting, usual, "updates" if budget == "none" else budget)
    apart = difference(own, outcomes(reference)) if reference and arm != usual else None
    row |= _interval("difference", apart)
    for ground in own.tasks:
        expert = runs_of(runs, MAIN, setting, expert_of(ground), "none") if suite not in VALIDATED else []
        share = kept_share(own, outcomes(expert), ground) if expert and arm != expert_of(ground) else None
        row |= _interval(f"{ground}_kept", share)
        for name in PROPERTIES:
            ratios = [r for run in found if (r := ratio_of(run.diversity, ground, name)) is not None]
            row[f"{ground}_{name}"] = _mean(ratios) if ratios else ""
    return row


def ratio_of(diversity: Mapping[str, Any], ground: str, name: str) -> float | None:
    """A property's entropy over the truth's, None where it was not measured."""
    found = diversity.get(ground, {}).get(name)
    return None if found is None else float(found["ratio"])


def _add_ranks(rows: Sequence[dict[str, Any]], suite: str, setting: str) -> None:
    """Beside the paper's: at each budget, among the arms that both have a number of."""
    for published in published_of(suite, setting):
        key = f"rank_{published.metric}"
        for budget in ("updates", "compute"):
            found = {arm: row for arm in published.values if (row := _standing(rows, arm, budget))}
            ours = ranks({arm: row[published.ground or "mean"] for arm, row in found.items()})
            theirs = ranks({arm: published.values[arm] for arm in found})
            for arm, row in found.items():
                if key not in row:
                    row |= {key: ours[arm], f"{key}_paper": theirs[arm]}


def _standing(rows: Sequence[dict[str, Any]], arm: str, budget: str) -> dict[str, Any] | None:
    """The row that stands for an arm at a budget, as `runs_of` chooses runs."""
    own = {row["budget"]: row for row in rows if row["arm"] == arm}
    return next((own[name] for name in (budget, "none") if name in own), None)


def _cells(
    row: Mapping[str, Any], suite: str, grounds: Sequence[str], papers: Sequence[str]
) -> Iterator[str]:
    diverged = f", {row['diverged']} diverged" if row["diverged"] else ""
    yield label_of(row["arm"], suite) + diverged
    yield row["budget"]
    yield str(row["seeds"] or "-")
    for name in (*grounds, "mean"):
        yield _score(row, name)
    if suite in REFERENCES:
        yield _told(row, "difference", "{:+.1f} [{:+.1f}, {:+.1f}]")
    for ground in grounds if suite not in VALIDATED else ():
        yield _told(row, f"{ground}_kept", "{:.0f} [{:.0f}, {:.0f}]")
    for ground in grounds:
        yield " / ".join(_number(row.get(f"{ground}_{name}", ""), "{:.2f}") for name in PROPERTIES)
    yield _number(row["updates"], "{:.0f}")
    yield _number(row["learning_rate"] or "", "{:g}")
    yield _number(row["compute"] / 1000 or "", "{:.1f}")
    yield _number(row["seconds"] or "", "{:.0f}")
    for name in papers:
        key = name.replace(" ", "_")
        yield f"{row[key]} / {row[f'{key}_paper']}" if key in row else "-"


def _score(row: Mapping[str, Any], name: str) -> str:
    if name not in row:
        return "-"
    sd = row[f"{name}_sd"]
    deviation = f" ± {_number(sd if sd == '' else 100 * sd, '{:.1f}')}" if row["seeds"] else ""
    return f"{100 * row[name]:.1f}{deviation}"


def _told(row: Mapping[str, Any], name: str, form: str) -> str:
    if row.get(name, "") == "":
        return "-"
    return form.format(*(100 * row[key] for key in (name, f"{name}_low", f"{name}_high")))


def _number(value: float | str, form: str) -> str:
    return "-" if isinstance(value, str) else form.format(value)


def _interval(name: str, estimate: Estimate | None, *, value: bool = True) -> dict[str, float | str]:
    named = {name: estimate.value if estimate else None} if value else {}
    named |= {f"{name}_low": estimate and estimate.low, f"{name}_high": estimate and estimate.high}
    return {key: "" if number is None else _round(number) for key, number in named.items()}


def claims_table(findings: Sequence[Finding]) -> Table:
    """The verdicts."""
    rows, cells = [], []
    for finding in findings:
        claim, estimate = finding.claim, finding.decisive.estimate if finding.decisive else None
        rows.append(
            {
                "claim": claim.name,
                "statement": claim.statement,
                "paper": claim.paper,
                "rule": claim.rule.text,
                "budget": finding.budget,
                "verdict": finding.verdict,
                "decisive": finding.decisive.text if finding.decisive else "",
                **_interval("estimate", estimate),
                "seeds": estimate.seeds if estimate else "",
                "sentence": finding.sentence,
            }
        )
        cells.append(
            (claim.statement, claim.paper, f"equal {finding.budget}", finding.verdict, finding.sentence)
        )
    note = "Each claim holds when, for every check, "
    note += "; ".join(
        f"{rule} ({', '.join(dict.fromkeys(f.claim.name for f in findings if f.claim.rule.text == rule))})"
        for rule in dict.fromkeys(finding.claim.rule.text for finding in findings)
    )
    columns = ("claim", "in the paper (GEdit / GenEval)", "at", "verdict", "why")
    return Table("claims", "The paper's claims", f"{note}.", columns, tuple(cells), frozenset(), tuple(rows))


def checks_table(findings: Sequence[Finding]) -> Table:
    """What each verdict was made of."""
    rows, cells, form = [], [], "{:.1f} [{:.1f}, {:.1f}]"
    for finding in findings:
        for check in finding.checks:
            given = _interval("estimate", check.estimate)
            row = {"claim": finding.claim.name, "budget": finding.budget, "check": check.text, **given}
            row |= {"seeds": check.estimate.seeds if check.estimate else "", "verdict": check.verdict}
            rows.append(row)
            seeds = str(row["seeds"] or "-")
            what = (check.text, finding.claim.name, str(finding.budget))
            cells.append((*what, _told(row, "estimate", form), seeds, str(check.verdict)))
    columns = ("check", "claim", "equal", "points, or % kept", "seeds", "verdict")
    note = "Differences in points of 100, shares of the expert in percent, with 95 % intervals."
    return Table("checks", "All checks", note, columns, tuple(cells), frozenset(), tuple(rows))


def curves_table(runs: Sequence[Run]) -> Table:
    """Scores, diversity and gap of students on the way; one row per run, moment and ground."""
    rows, cells = [], []
    for run in runs:
        if run.budget == "compute" or run.suite not in (MAIN, "longer"):
            continue  # the reference stands in all suites, and at both budgets
        for moment in run.curve:
            for ground, of in moment["tasks"].items():
                share = _mean([float(digits(given).mean()) for given in of.values()])
                row: dict[str, Any] = {
                    "suite": run.suite,
                    "setting": run.setting,
                    "arm": run.arm,
                    "budget": run.budget,
                    "seed": run.seed,
                    "updates": moment["updates"],
                    "compute": _round(moment["compute"]),
                    "ground": ground,
                    "score": share,
                }
                ratios = {name: ratio_of(moment["diversity"], ground, name) for name in PROPERTIES}
                row |= {name: "" if r is None else _round(r) for name, r in ratios.items()}
                row["gap"] = _mean_of_finite(moment["gap"].get(ground, {}).get("error", ()))
                rows.append(row)
                told = [label_of(run.arm), run.suite, run.setting, ground, str(run.seed)]
                told += [str(moment["updates"]), f"{100 * share:.1f}"]
                told += [_number(row[name], "{:.2f}") for name in PROPERTIES]
                cells.append((*told, _number(row["gap"], "{:.3g}")))
    columns = ("arm", "suite", "setting", "ground", "seed", "updates", "score", *PROPERTIES, "gap")
    note = "Scores in percent of fewer tasks than at the end; gap: mean over noise levels."
    return Table("curves", "On the way", note, columns, tuple(cells), frozenset(), tuple(rows))


def gaps_table(runs: Sequence[Run]) -> Table:
    """How far students are from their teachers at the end, by noise level; means over seeds."""
    rows, cells = [], []
    told = [run for run in runs if run.gap]
    groups = dict.fromkeys((run.suite, run.setting, run.arm, run.budget) for run in told)
    for suite, setting, arm, budget in groups:
        place = (suite, setting, arm, budget)
        own = [run.gap for run in told if (run.suite, run.setting, run.arm, run.budget) == place]
        for route in dict.fromkeys(route for gap in own for route in gap):
            bins = list(zip(*(gap[route]["error"] for gap in own if route in gap), strict=True))
            sigmas = next(gap[route]["sigma"] for gap in own if route in gap)
            errors = [_mean_of_finite(values) for values in bins]
            what = {"suite": suite, "setting": setting, "arm": arm, "budget": budget, "route": route}
            pairs = zip(sigmas, errors, strict=True)
            rows += [{**what, "sigma": _round(sigma), "error": error} for sigma, error in pairs]
            noisy = [error for sigma, error in zip(sigmas, errors, strict=True) if sigma > HALF_WAY]
            clean = [error for sigma, error in zip(sigmas, errors, strict=True) if sigma <= HALF_WAY]
            means = [_number(_mean_of_finite(part), "{:.3g}") for part in (errors, noisy, clean)]
            cells.append((label_of(arm, suite), suite, setting, budget, route, *means))
    halves = (f"sigma > {HALF_WAY:g}", f"sigma <= {HALF_WAY:g}")
    columns = ("arm", "suite", "setting", "budget", "route", "all sigmas", *halves)
    note = "Mean squared error of the student's velocity against the teacher's on the student's own rollouts."
    return Table("gaps", "Field gap", note, columns, tuple(cells), frozenset(), tuple(rows))


def _mean_of_finite(values: Sequence[float | str | None]) -> float | str:
    """Without bins that no state fell into, "" where there is no other."""
    found = [float(value) for value in values if isinstance(value, int | float) and math.isfinite(value)]
    return _mean(found) if found else ""


def _mean(values: Sequence[float]) -> float:
    return _round(sum(values) / len(values))


def _round(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
