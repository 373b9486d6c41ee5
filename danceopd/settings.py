"""Settings classes whose mistakes are told in one sentence: the key, the value seen, and the cure."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Iterator, Sequence
from functools import wraps
from typing import Annotated, Any, TypeVar, cast

from pydantic import ConfigDict, Field, Strict, ValidationError
from pydantic.dataclasses import dataclass
from typing_extensions import dataclass_transform

T = TypeVar("T")

# Strict, because "1e-4" in quotes or `true` where a number belongs is a mistake and no value.
Integer = Annotated[int, Strict()]
Number = Annotated[float, Strict()]
Flag = Annotated[bool, Strict()]
Text = Annotated[str, Strict(), Field(min_length=1)]


@dataclasses.dataclass(frozen=True)
class Shown:
    """What help calls the type of a field that has its own validator; it stands inside `Annotated`."""

    text: str


class ConfigError(ValueError):
    """A setting that cannot be used: an unknown key, a value out of range, a file that is not there."""


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
def settings(cls: type[T]) -> type[T]:
    """Make ``cls`` a frozen dataclass whose keywords pydantic checks.

    A mistake in a call is one `ConfigError` instead of pydantic's list. Nested mappings are checked along
    with the outermost call, so the key in the message is always the full path, such as ``teachers.0.scale``.
    """
    config = ConfigDict(extra="forbid", allow_inf_nan=False)
    checked: Any = dataclass(cls, config=config, frozen=True, kw_only=True)
    check = checked.__init__
    # Counted here because pydantic takes every field by position, whatever `kw_only` says.
    positional = [field.name for field in dataclasses.fields(checked) if not field.kw_only]

    @wraps(check)
    def __init__(self: T, *args: Any, **kwargs: Any) -> None:
        if len(args) > len(positional):
            takes = f"only {' and '.join(positional)}" if positional else "nothing"
            raise ConfigError(
                f"{cls.__name__} takes {takes} by position but got {len(args)} values: name the others."
            )
        try:
            check(self, *args, **kwargs)
        except ValidationError as error:
            raise ConfigError(_sentence(error, checked)) from None

    checked.__init__ = __init__
    return cast(type[T], checked)


def nearest(name: str, known: Iterable[str]) -> str:
    """Say what ``name`` may have meant: the closest of ``known``, or all of them when none is close."""
    options = sorted(set(known))
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"known are {', '.join(options)}." if options else "none is known."


_EXPECTED = {
    "greater_than_equal": "at least {ge}",
    "greater_than": "greater than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
    "literal_error": "{expected}",
    "int_type": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "a text",
    "string_too_short": "a text that is not empty",
    "list_type": "a list",
    "too_short": "a list of at least {min_length}",
    "dataclass_type": "a mapping of keys to values",
}


def _sentence(error: ValidationError, cls: Any) -> str:
    """The first problem of ``error`` as one sentence, unknown keys first since they explain missing ones."""
    problem = min(error.errors(), key=lambda problem: problem["type"] != "unexpected_keyword_argument")
    path = problem["loc"]
    key = ".".join(str(part) for part in path)
    kind, value, context = problem["type"], _shown(problem["input"]), problem.get("ctx", {})
    if kind == "unexpected_keyword_argument":
        return f"unknown key '{key}': {nearest(str(path[-1]), _field_names(cls, path[:-1]))}"
    if kind == "missing":
        return f"key '{key}' of {cls.__name__} is missing: give it a value."
    if kind == "value_error":
        return str(context["error"])
    if kind in _EXPECTED:
        return f"{key} must be {_EXPECTED[kind].format(**context)}, got {value}."
    return f"{key} cannot be {value}: {problem['msg'][:1].lower()}{problem['msg'][1:]}."


def _field_names(cls: Any, path: Sequence[str | int]) -> list[str]:
    """Keys that a mapping at ``path`` below the settings class ``cls`` may use."""
    for part in path:
        if isinstance(part, str):
            cls = next(_classes_in(cls.__pydantic_fields__[part].annotation))
    return [field.name for field in dataclasses.fields(cls)]


def _classes_in(annotation: Any) -> Iterator[Any]:
    """Settings classes that an annotation such as ``list[Teacher]`` or ``Query | None`` speaks of."""
    if dataclasses.is_dataclass(annotation):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _classes_in(inner)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
