"""Which code made a result: a result is kept when the code changes, and the report says so."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Final

import danceopd

from .records import Run

_PARTS: Final = ("**/*.py", "shapesworld/experts/*.safetensors")


@cache
def installed() -> Mapping[str, str]:
    """The package's version, which the compiled extension shares, and one digest of all that it ships."""
    return {"danceopd": danceopd.__version__, "digest": digest_of(Path(danceopd.__file__).parent)}


def digest_of(package: Path) -> str:
    """Of the sources of a package, and of its experts, by their names and bytes."""
    found = sha256()
    for path in sorted({path for part in _PARTS for path in package.glob(part)}):
        found.update(f"{path.relative_to(package).as_posix()}\0".encode())
        found.update(sha256(path.read_bytes()).digest())
    return found.hexdigest()[:16]


def of_other_code(rows: Sequence[Run]) -> str:
    """A sentence about the runs that the installed code has not made; empty where it has made all."""
    runs = different(rows)
    known = [run.made_by["digest"] for run in runs if run.made_by]
    other, unknown = sum(digest != installed()["digest"] for digest in known), len(runs) - len(known)
    if not other and not unknown:
        return ""
    now = f"danceopd {installed()['danceopd']}, digest {installed()['digest']}"
    return (
        f"Of {len(runs)} runs, {other} are of other code than what is installed ({now}), and {unknown} of "
        "unknown code: what is removed is made again."
    )


def different(rows: Sequence[Run]) -> list[Run]:
    """A row of each run: those of several tables differ in suite, arm and budget alone."""
    named = {json.dumps(vars(replace(row, suite="", arm="", budget=""))): row for row in rows}
    return list(named.values())
