"""Read a run from YAML, with overrides from the command line, and write it back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from danceopd.files import write_whole
from danceopd.settings import ConfigError
from danceopd.training.config import RunConfig, TrainConfig, as_mapping

# Keys whose value may be one word: what that word is called, and the usual one.
_SHORT: Final[dict[str, tuple[str, str | None]]] = {"method": ("name", "danceopd"), "query": ("law", None)}


class _Loader(yaml.SafeLoader):
    """YAML where 2e-4 is a number, as in YAML 1.2 and Python, and where a key said twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise ConfigError(f"key {key!r} on line {key_node.start_mark.line + 1} must be a text.")
            if key in seen:
                raise ConfigError(
                    f"key '{key}' on line {key_node.start_mark.line + 1} is there twice: keep one."
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def load_run_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read ``path`` (YAML), apply ``overrides`` such as ``teachers.0.scale=0.5``, and check the whole.

    Overrides are ``key=value``: dots go down into mappings, numbers index lists, the value is YAML.
    Relative paths in the config are read from the working directory.

    Raises:
        ConfigError: in one sentence, for a file that is missing or no YAML, an unknown key or a bad value.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise ConfigError(f"cannot read the config '{path}': {reason}.") from None
    try:
        config = _parse(text)
    except ConfigError as error:
        raise ConfigError(f"the config '{path}' cannot be used: {error}") from None
    if not isinstance(config, dict):
        raise ConfigError(
            f"the config '{path}' must be a mapping of keys to values, got {type(config).__name__}."
        )
    for override in overrides:
        _apply(config, override)
    try:
        return RunConfig(**config)
    except ConfigError as error:
        raise ConfigError(f"the config '{path}' cannot be used: {error}") from None


def write_config(config: TrainConfig, path: Path) -> None:
    """Write ``config`` as YAML that :func:`load_run_config` reads; the file is whole or as it was before."""
    text: str = yaml.safe_dump(as_mapping(config), sort_keys=False, allow_unicode=True)
    write_whole(path, text.encode())


def _parse(text: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" on line {mark.line + 1}" if mark else ""
        problem = " ".join((getattr(error, "problem", None) or str(error)).split())
        raise ConfigError(f"it is no valid YAML{where} ({problem}).") from None


def _apply(config: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override '{override}' must look like key=value, for example max_steps=100.")
    try:
        value = _parse(text)
    except ConfigError as error:
        raise ConfigError(f"the value of override '{override}' cannot be read: {error}") from None
    *parents, last = key.split(".")
    if parents and isinstance(config.get(parents[0], ""), str) and parents[0] in _SHORT:
        # One word stands for a mapping: `method=soft` for {name: soft}.
        name, usual = _SHORT[parents[0]]
        word = config.get(parents[0], usual)
        config[parents[0]] = {} if word is None else {name: word}
    here: Any = config
    for depth, part in enumerate(parents):
        if isinstance(here, dict) and here.get(part) is None:
            here[part] = {}
        here = _child(here, part, ".".join(parents[:depth]), override)
    if isinstance(here, dict):
        here[last] = value
    else:
        _child(here, last, ".".join(parents), override)
        here[int(last)] = value


def _child(here: Any, part: str, path: str, override: str) -> Any:
    if isinstance(here, dict):
        return here[part]
    if not isinstance(here, list):
        raise ConfigError(f"override '{override}' goes below '{path}', which holds {here!r} and has no keys.")
    if not part.isdecimal() or int(part) >= len(here):
        raise ConfigError(
            f"override '{override}' needs an index of '{path}' from 0 to {len(here) - 1}, got '{part}'."
        )
    return here[int(part)]
