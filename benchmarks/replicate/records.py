"""Results as the rows of tables."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from danceopd.files import write_whole

COMPUTE: Final = "forwards of one sample, in thousands; a pass with gradient counts as three"
"""How compute is told."""
Outcomes = Mapping[str, Mapping[str, str]]
"""Ground -> category -> "0110...", one digit per task: whether it was fulfilled."""


@dataclass(frozen=True)
class Run:
    """One row of one table, see `suites.Entry`.

    Attributes:
        suite: the table.
        setting: the capabilities to hold.
        arm: name of the row.
        budget: "updates" or "compute": what it has in common with DanceOPD; "none" without training.
        seed: of training; tasks and their noise are the same for all runs.
        method: name of the method, "" without training.
        updates: of the training.
        learning_rate: of the training.
        config: of the training, as its config.yaml has it.
        compute: of the training, in forwards of one sample; a pass with gradient counts as three.
        seconds: of the training, CPU time.
        diverged: what was said where the loss became infinite; the last state before that is judged.
        tasks: outcomes on the test tasks.
        diversity: ground -> property -> entropies, see `danceopd.shapesworld.Diversity`.
        gap: ground -> noise levels of the run's own states, and mean squared errors against the ground's
            teacher there.
        scales: guidance scale of sampling -> tasks, diversity and gap, where others than 1 were asked for.
        curve: updates, compute, tasks, diversity and gap on the way, on fewer tasks.
        made_by: version and digest of the code, see `made_by`; empty where nobody wrote it down.
    """

    suite: str
    setting: str
    arm: str
    budget: str
    seed: int
    method: str
    updates: int
    learning_rate: float
    config: Mapping[str, Any]
    compute: float
    seconds: float
    diverged: str | None
    tasks: Outcomes
    diversity: Mapping[str, Any]
    gap: Mapping[str, Any]
    scales: Mapping[str, Mapping[str, Any]]
    curve: Sequence[Mapping[str, Any]]
    made_by: Mapping[str, str] = field(default_factory=dict)


def write_runs(runs: Sequence[Run], path: Path) -> None:
    """All rows in one gzipped JSON file, the same bytes for the same rows."""
    lines = "".join(json.dumps(asdict(run)) + "\n" for run in runs)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, gzip.compress(lines.encode(), mtime=0))


def read_runs(path: Path) -> list[Run]:
    """What `write_runs` has written."""
    names = {each.name for each in fields(Run)}
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    return [Run(**{k: v for k, v in json.loads(line).items() if k in names}) for line in lines]
