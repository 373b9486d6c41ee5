"""Whether settings are those of the run that a folder or a checkpoint holds."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from danceopd.settings import ConfigError
from danceopd.training.config import RunConfig, as_mapping
from danceopd.training.query import QuerySettings
from danceopd.training.run_folder import PROCESSES

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
    "sharding",
    "validation",
    "report_to",
}
# May change while their product stays.
_SPLIT: Final = ("batch_size", "gradient_accumulation_steps", PROCESSES)
# May change where somebody names the checkpoint: how far each further update goes, which is what has to be
# lowered after a divergence. Nothing that is drawn, asked or kept hangs on them.
STEP_SIZE: Final = {"learning_rate", "lr_schedule", "warmup_steps", "max_steps", "max_grad_norm"}


def check_same_run(
    saved: Mapping[str, Any], wanted: Mapping[str, Any], where: Path, free: Collection[str] = ()
) -> dict[str, tuple[Any, Any]]:
    """Refuse other settings than those saved, and return the differences in the keys that are `free`.

    Args:
        saved: settings of the run, as checkpoints store them.
        wanted: those asked for.
        where: the run is, for the message.
        free: keys that may differ here, beside those that always may.

    Raises:
        ConfigError: another key differs; the message names it.
    """
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
            named = ", name the checkpoint to go on from (--resume-from)" if key in STEP_SIZE else ""
            raise ConfigError(
                f"the run in '{where}' was made with {key}={setting_text(old)} but {setting_text(new)} is "
                f"asked for: set it back{named}, or name another output_dir for a new run."
            )
    return changed


def setting_text(value: Any) -> str:
    """A setting's value in a message."""
    return "nothing" if value is None else repr(value)


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
