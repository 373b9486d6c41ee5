"""The student of a run that has ended, written whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError


def export_whole(folder: Path, export: Callable[[Path], Path]) -> Path:
    """Let ``export`` write into an empty folder, then move each of its files into ``folder`` at once.

    Returns:
        Where in ``folder`` the path that ``export`` returned has come to lie.

    Raises:
        OSError: it cannot be written; what was there before stays, and so do the checkpoints.
    """
    partial = folder / ".partial-export"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        written = export(partial).relative_to(partial)
        for path in sorted(partial.iterdir()):
            place = folder / path.name
            if place.is_dir():
                shutil.rmtree(place)
            path.replace(place)
        partial.rmdir()
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        reason = getattr(error, "strerror", None) or error
        raise OSError(
            f"cannot write the student into '{folder}': {reason}; the newest checkpoint holds it, so make "
            "room and start the same training again, which then only exports."
        ) from error
    return folder / written
