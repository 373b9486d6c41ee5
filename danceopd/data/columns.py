"""What the columns of a table mean."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Final

from danceopd.data.errors import DataError
from danceopd.data.tables import Table
from danceopd.settings import nearest

_KNOWN: Final = frozenset({"prompt", "source", "target", "mask", "height", "width", "route"})
_FURTHER_SOURCE: Final = re.compile(r"source_([2-9]|[1-9]\d+)")
_NUMBERED: Final = re.compile(r"sources?[ _-]?\d+", re.IGNORECASE)
_IMAGES: Final = frozenset(
    {"image", "images", "image_path", "input", "input_image", "source_image", "edited_image", "output_image"}
)
_ALIKE: Final = 0.83  # finds soruce and sources, and lets source_id and weight pass


def read_as(table: Table, renamed: Mapping[str, str]) -> dict[str, str]:
    """The table's column for each kind of cell that it has, sources in their order.

    Args:
        table: the table.
        renamed: columns to read in place of those that have the name of the kind, such as prompt: caption.

    Raises:
        DataError: a column is missing, or all but the name of one.
    """
    for role, column in renamed.items():
        if not _is_role(role):
            raise DataError(f"columns has the unknown key '{role}': {nearest(role, _KNOWN)}")
        if column not in table.columns:
            raise DataError(f"{table.name} has no column '{column}', which columns names for {role}: "
                            f"{nearest(column, table.columns)}")  # fmt: skip
    own = {**table.aliases, **{name: name for name in table.columns}}
    # What `columns` takes for one thing is not another by its name too.
    taken = renamed.values()
    found = {role: column for role, column in own.items() if _is_role(role) and column not in taken}
    found.update(renamed)
    if "prompt" not in found:
        raise DataError(
            f"{table.name} has no column 'prompt' (columns={{'prompt': NAME}} reads it from another one): "
            f"{nearest('prompt', table.columns)}"
        )
    _check_no_slip(table, found)
    if "file_name" in table.aliases.values() and "file_name" not in found.values() and "source" not in found:
        raise DataError(
            f"{table.name} has both file_name and target but no source: say "
            "columns={'source': 'file_name'} to edit the one into the other."
        )
    if ("height" in found) != ("width" in found):
        raise DataError(f"{table.name} has only one of the columns height and width: give both, or none.")
    further = sorted(int(role[7:]) for role in found if role.startswith("source_"))
    if further and (further != list(range(2, len(further) + 2)) or "source" not in found):
        raise DataError(f"{table.name} has the column source_{further[-1]} but not all before it: "
                        "name them source, source_2, source_3 and so on.")  # fmt: skip
    sources = ["source", *(f"source_{number}" for number in further)]
    order = ["prompt", *sources, "target", "mask", "height", "width", "route"]
    return {role: found[role] for role in order if role in found}


def _is_role(name: str) -> bool:
    return name in _KNOWN or _FURTHER_SOURCE.fullmatch(name) is not None


def _check_no_slip(table: Table, found: Mapping[str, str]) -> None:
    """Stop at a column that is all but one of ours: it would be ignored, and an edit become text-to-image."""
    for column in table.columns:
        if column in found.values() or _is_role(column):
            continue
        if column.lower() in _IMAGES and "source" not in found:
            raise DataError(
                f"{table.name} has a column '{column}' but no 'source': say columns={{'source': '{column}'}} "
                f"for an image to edit, or columns={{'target': '{column}'}} for what the prompt describes."
            )
        if _NUMBERED.fullmatch(column):
            raise DataError(
                f"{table.name} has a column '{column}': name sources source, source_2, source_3 and so on."
            )
        for role in _KNOWN.difference(found):
            alike = difflib.SequenceMatcher(None, column.lower(), role).ratio() >= _ALIKE
            if alike and column[0].lower() == role[0]:
                raise DataError(
                    f"{table.name} has a column '{column}' but no '{role}': rename it to '{role}', or to "
                    "something less alike."
                )
