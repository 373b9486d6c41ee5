"""The folder of a run: whom it belongs to, where it continues, and who may write to it."""

from __future__ import annotations

import fcntl
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from safetensors import SafetensorError

from danceopd.settings import ConfigError
from danceopd.training.checkpoint import Checkpoint, list_checkpoints, load_checkpoint, set_aside
from danceopd.training.config import RunConfig, as_mapping
from danceopd.training.config_file import load_run_config
from danceopd.training.errors import CheckpointError, DamagedCheckpointError
from danceopd.training.provenance import Content, check_same_content, tell_changed_versions
from danceopd.training.query import QuerySettings

CACHE: Final = "cache"
CHECKPOINTS: Final = "checkpoints"
METRICS: Final = "metrics.jsonl"
CONFIG: Final = "config.yaml"
GRIDS: Final = "grids"
TEACHERS: Final = ".teachers.safetensors"  # in GRIDS: what the teachers drew
PROCESSES: Final = "processes"
"""How many share the run, among the settings that checkpoints store; 1 where it is not told."""

_MAY_CHANGE: Final = {
    "output_dir",
    "progress",
    "save_every",
    "keep_checkpoints",
    "log_every",
    "device",
    "cache_dir",
    # Where memory runs out these are lowered: equal to rounding.
    "rollout_batch_size",
    "compile",  # to rounding too
    "student.gradient_checkpointing",
    "validation",
    "report_to",
}
# May change while their product stays.
_SPLIT: Final = ("batch_size", "gradient_accumulation_steps", PROCESSES)
# May change where somebody names the checkpoint: how far each further update goes, which is what has to be
# lowered after a divergence. Nothing that is drawn, asked or kept hangs on them.
_STEP_SIZE: Final = {"learning_rate", "lr_schedule", "warmup_steps", "max_steps", "max_grad_norm"}
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
    begun = _has_begun(folder)
    if isinstance(resume, (str, Path)):
        checkpoint = load_checkpoint(Path(resume))
        _check_no_later(folder, here, checkpoint.step, Path(resume))
        changed = _check_same_run(checkpoint.run, run, Path(resume), _STEP_SIZE)
        if not here and begun and (folder / CONFIG).exists():
            _check_same_run(_settings_of(folder, run), run, folder)
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
        _check_same_run(start.checkpoint.run, run, folder)
        _check_same_content(start.checkpoint, content, folder)
        return start
    if (folder / CONFIG).exists():
        if begun:
            _check_same_run(_settings_of(folder, run), run, folder)
    elif (folder / METRICS).exists():
        raise ConfigError(
            f"output_dir '{folder}' holds a {METRICS} of something else (there is no {CONFIG}): name another "
            "folder."
        )
    return Start(None)


def _has_begun(folder: Path) -> bool:
    """Whether there is an update to be lost; without one a folder is as good as new, whatever its config."""
    if list_checkpoints(folder / CHECKPOINTS):
        return True
    try:
        with (folder / METRICS).open("rb") as lines:
            return next(lines, b"").endswith(b"\n")
    except FileNotFoundError:
        return False


def forget_what_never_began(folder: Path) -> None:
    """Delete what teachers drew for a run without an update: its config may have named others."""
    if not _has_begun(folder):
        (folder / GRIDS / TEACHERS).unlink(missing_ok=True)


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


def _check_same_content(checkpoint: Checkpoint, content: Callable[[], Content], where: Path) -> None:
    if saved := checkpoint.made_of.get("content"):
        check_same_content(saved, content(), where)


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
            f"{key}={_shown(new)} in place of {_shown(old)}" for key, (old, new) in start.changed.items()
        )
        print(f"danceopd: going on after update {start.checkpoint.step} with {now}", file=sys.stderr)
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


def _settings_of(folder: Path, run: Mapping[str, Any]) -> dict[str, Any]:
    """What the config of a run without checkpoints says; it does not know row counts and processes."""
    return {"rows": run["rows"], PROCESSES: run[PROCESSES], **as_mapping(load_run_config(folder / CONFIG))}


@contextmanager
def open_folder(folder: Path) -> Iterator[None]:
    """Make ``folder`` and lock it against other trainings; the lock ends with the process at the latest."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise _unusable(folder, error.strerror or str(error)) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"output_dir '{folder}' is in use by another training process: wait for it, or name another "
                "folder."
            ) from None
        yield
    finally:
        os.close(descriptor)


def check_writable(folder: Path, key: str = "output_dir") -> None:
    """Raise ConfigError, naming ``key``, unless ``folder`` can be written, or made; nothing is made."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise _unusable(folder, f"'{place}' is a file", key)
    try:
        # The one question that permissions, full disks and read-only mounts all answer; it leaves no trace.
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise _unusable(folder, f"'{place}': {error.strerror}", key) from None


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


def _check_same_run(
    saved: Mapping[str, Any], wanted: Mapping[str, Any], where: Path, free: Collection[str] = ()
) -> dict[str, tuple[Any, Any]]:
    """Refuse other settings than those saved, and return the differences in the keys that are `free`."""
    saved, wanted = _settled(saved), _settled(wanted)
    may_change = set(_MAY_CHANGE)
    if saved.get("lr_schedule") == wanted["lr_schedule"] == "constant":
        may_change.add("max_steps")
    if _samples(saved) == _samples(wanted):
        may_change.update(_SPLIT)
    changed = {}
    before, now = _flat(saved), _flat(wanted)
    for key in sorted({*before, *now}):
        # None says no more than a key that is not there, as in runs from before the key was added.
        old, new = (settings.get(key) for settings in (before, now))
        if old == new:
            continue
        if key in free:
            changed[key] = (old, new)
        elif not {key, key.partition(".")[0]} & may_change:
            named = ", name the checkpoint to go on from (--resume-from)" if key in _STEP_SIZE else ""
            raise ConfigError(
                f"the run in '{where}' was made with {key}={_shown(old)} but {_shown(new)} is asked for: set "
                f"it back{named}, or name another output_dir for a new run."
            )
    return changed


def _settled(run: Mapping[str, Any]) -> dict[str, Any]:
    """Settings in full: with the defaults of keys that came later, and with the method's own query law."""
    settings = {key: value for key, value in run.items() if key not in ("rows", PROCESSES)}
    try:
        config = RunConfig(**settings)
    except ConfigError:  # of a version that had other keys: compared as they are
        return dict(run)
    if config.query is None and config.method.default_query is not None:
        law = config.query_law
        config = replace(config, query=QuerySettings(alpha=law.alpha, beta=law.beta))
    return {PROCESSES: 1, **run, **as_mapping(config)}


def _samples(settings: Mapping[str, Any]) -> int:
    """Samples of one update."""
    return math.prod(int(settings.get(key, 1)) for key in _SPLIT)


def _check_no_later(folder: Path, here: list[Path], step: int, resume: Path) -> None:
    later = [path.name for path in here if int(path.name.partition("-")[2]) > step]
    if later:
        raise CheckpointError(
            f"cannot continue '{folder}' from '{resume}' while it holds a later checkpoint ({later[-1]}): "
            "delete the later ones, or name another output_dir."
        )


def _shown(value: Any) -> str:
    return "nothing" if value is None else repr(value)


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        items = [(str(key), child) for key, child in value.items()]
    elif isinstance(value, list) and value:
        items = [(str(index), child) for index, child in enumerate(value)]
    else:
        return {path: value}
    return {
        name: leaf for key, child in items for name, leaf in _flat(child, f"{path}.{key}".lstrip(".")).items()
    }


def _unusable(folder: Path, why: str, key: str = "output_dir") -> ConfigError:
    return ConfigError(f"{key} '{folder}' cannot be written ({why}): name a folder that can.")
