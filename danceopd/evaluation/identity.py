"""By what the images in a folder were made, so that images of two models are never taken for one's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from danceopd.files import write_shared

GENERATION: Final = "generation.json"
_ABSENT: Final = "nothing"


def claim(out: Path, made_by: Mapping[str, Any], holds: Path) -> None:
    """Note in a folder by what its images are made, or find the same note there.

    Any number of processes may claim a folder at once, for the same.

    Args:
        out: made when it is not there.
        made_by: values for JSON.
        holds: what must not be there already in a folder without a note.

    Raises:
        ValueError: the folder holds images of something else, or of nobody knows what.
        OSError: it takes no files.
    """
    path = out / GENERATION
    text = json.dumps(made_by, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    if not path.exists():
        if holds.exists() and any(holds.iterdir()):
            raise ValueError(
                f"'{out}' holds images but no {GENERATION} that says what made them: give another folder, or "
                "remove it."
            )
        out.mkdir(parents=True, exist_ok=True)
        write_shared(path, text.encode())
        return
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"'{path}' is no note of what made the images beside it: give another folder.")
    differences = [
        f"{name} is {_shown(there)} there and {_shown(here)} here"
        for name, there, here in _differences("", found, json.loads(text))
    ]
    if differences:
        raise ValueError(
            f"'{out}' holds images of another generation ({'; '.join(differences)}): give another folder, or "
            "remove it."
        )


def model_in(out: Path) -> Mapping[str, Any]:
    """What drew the images in a folder, as its note says.

    Raises:
        ValueError: it has no such note.
    """
    path = out / GENERATION
    try:
        return dict(json.loads(path.read_bytes())["model"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        raise ValueError(
            f"'{path}' is missing or damaged: copy the evaluation's whole folder anew, or evaluate again."
        ) from None


def _differences(name: str, there: Any, here: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted({*there, *here}):
            inner = f"{name}.{key}" if name else key
            yield from _differences(inner, there.get(key, _ABSENT), here.get(key, _ABSENT))
    elif there != here or type(there) is not type(here):
        yield name, there, here


def _shown(value: Any) -> str:
    text = value if value is _ABSENT else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:36]}...{text[-1]}"
