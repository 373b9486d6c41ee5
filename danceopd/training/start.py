"""Where a run starts: at its beginning, or at a checkpoint that is whole and its own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from danceopd.settings import ConfigError
from danceopd.training.checkpoint import Checkpoint, list_checkpoints, load_checkpoint, set_aside
from danceopd.training.config import as_mapping
from danceopd.training.config_file import load_run_config
from danceopd.training.errors import CheckpointError, DamagedCheckpointError
from danceopd.training.provenance import FIELD, Content, check_same_content, tell_changed_versions
from danceopd.training.run_folder import CHECKPOINTS, CONFIG, METRICS, PROCESSES, has_begun
from danceopd.training.same_run import STEP_SIZE, check_same_run, setting_text
from danceopd.training.teachers import ASSIGNED

_CHANGED: Final = "changed"  # in what checkpoints are made of


class Start(NamedTuple):
    """Where a run starts.

    Attributes:
        checkpoint: None for the beginning.
        damaged: newer checkpoints that could not be read, newest first, and what is wrong with each.
        path: of the checkpoint's folder.
        changed: settings that differ from the checkpoint's, by key: what they were and what they are now.
    """

    checkpoint: Checkpoint | None
    damaged: Mapping[Path, DamagedCheckpointError] = MappingProxyType({})
    path: Path | None = None
    changed: Mapping[str, tuple[Any, Any]] = MappingProxyType({})


def find_start(
    folder: Path,
    run: Mapping[str, Any],
    resume: bool | str | Path,
    content: Callable[[], Content] = dict,
) -> Start:
    """Where a run in ``folder`` starts. Reads only, writes nothing.

    Args:
        folder: the run's output_dir; it need not be there.
        run: the settings asked for, as checkpoints store them.
        resume: True continues the newest whole checkpoint in ``folder``, or starts anew where there is no
            run; False insists on a new run; a path names the checkpoint to continue from, perhaps with
            another step size.
        content: tells the content of the run's files and rows; asked only where there is some to compare.

    Raises:
        ConfigError: if the folder holds a run that this one must not continue or overwrite.
        CheckpointError: if the named checkpoint is damaged, or all in ``folder`` are.
    """
    here = list_checkpoints(folder / CHECKPOINTS)
    begun = has_begun(folder)
    if isinstance(resume, (str, Path)):
        checkpoint = load_checkpoint(Path(resume))
        _check_no_later(folder, here, checkpoint.step, Path(resume))
        changed = check_same_run(checkpoint.run, run, Path(resume), STEP_SIZE)
        if not here and begun and (folder / CONFIG).exists():
            check_same_run(_settings_of(folder, run), run, folder)
        _check_same_content(checkpoint, content, Path(resume))
        return Start(checkpoint, path=Path(resume), changed=changed)
    if not resume and begun:
        held = [name for name in (CONFIG, METRICS) if (folder / name).exists()] + [path.name for path in here]
        raise ConfigError(
            f"output_dir '{folder}' holds a run already ({held[-1]}): resume it, delete it, or name "
            "another folder."
        )
    if here:
        start = _newest_whole(here)
        assert start.checkpoint is not None
        check_same_run(start.checkpoint.run, run, folder)
        _check_same_content(start.checkpoint, content, folder)
        return start
    if (folder / CONFIG).exists():
        if begun:
            check_same_run(_settings_of(folder, run), run, folder)
    elif (folder / METRICS).exists():
        raise ConfigError(
            f"output_dir '{folder}' holds a {METRICS} of something else (there is no {CONFIG}): name another "
            "folder."
        )
    return Start(None)


def _newest_whole(checkpoints: list[Path]) -> Start:
    damaged: dict[Path, DamagedCheckpointError] = {}
    for path in reversed(checkpoints):
        try:
            return Start(load_checkpoint(path), damaged, path)
        except DamagedCheckpointError as error:
            damaged[path] = error
    newest = damaged[checkpoints[-1]]
    more = f"; none of the {len(damaged)} in that folder is whole" if len(damaged) > 1 else ""
    raise CheckpointError(
        f"checkpoint file '{newest.file}' is damaged ({newest.why}){more}: restore a copy, or name another "
        "output_dir to begin again."
    )


def _check_no_later(folder: Path, here: list[Path], step: int, resume: Path) -> None:
    later = [path.name for path in here if int(path.name.partition("-")[2]) > step]
    if later:
        raise CheckpointError(
            f"cannot continue '{folder}' from '{resume}' while it holds a later checkpoint ({later[-1]}): "
            "delete the later ones, or name another output_dir."
        )


def _check_same_content(checkpoint: Checkpoint, content: Callable[[], Content], where: Path) -> None:
    if saved := checkpoint.made_of.get("content"):
        check_same_content(saved, content(), where)


def _settings_of(folder: Path, run: Mapping[str, Any]) -> dict[str, Any]:
    """What the config of a run without checkpoints says; it does not know row counts and processes."""
    return {"rows": run["rows"], PROCESSES: run[PROCESSES], **as_mapping(load_run_config(folder / CONFIG))}


def tell_start(start: Start, made_of: Mapping[str, Any]) -> None:
    """Tell on stderr what is remarkable about a start, and put damaged checkpoints out of the way.

    Args:
        start: of a run that is about to train.
        made_of: what it is made of now.
    """
    if start.checkpoint is None:
        return
    for path, error in start.damaged.items():
        place = set_aside(path)
        print(
            f"danceopd: checkpoint file '{error.file}' is damaged ({error.why}): going on after update "
            f"{start.checkpoint.step}; the damaged one is kept as '{place}'",
            file=sys.stderr,
        )
    if start.changed:
        now = ", ".join(
            f"{key}={setting_text(new)} in place of {setting_text(old)}"
            for key, (old, new) in start.changed.items()
        )
        print(f"danceopd: going on after update {start.checkpoint.step} with {now}", file=sys.stderr)
    for part, of in made_of["content"].items():
        if of.get(FIELD) == ASSIGNED:
            print(
                f"danceopd: {part} was assigned to trainer.teachers, so nothing tells whether it is what the "
                "run began with: give it as Teacher(name, field=..., identity=...)",
                file=sys.stderr,
            )
    tell_changed_versions(start.checkpoint.made_of.get("versions", {}), made_of["versions"])


def note_changes(start: Start, made_of: Mapping[str, Any]) -> dict[str, Any]:
    """``made_of`` with the settings that have changed in the course of the run, and after which update."""
    if start.checkpoint is None:
        return dict(made_of)
    changes = [*start.checkpoint.made_of.get(_CHANGED, [])]
    if start.changed:
        settings = {key: list(values) for key, values in start.changed.items()}
        changes.append({"after": start.checkpoint.step, "settings": settings})
    return {**made_of, _CHANGED: changes} if changes else dict(made_of)
