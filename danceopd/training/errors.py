"""Errors a user can cause, each told in one sentence that names the key, the value seen and the cure."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

T = TypeVar("T")


class ConfigError(ValueError):
    """A setting that cannot be used: an unknown key, a value out of range, a file that is not there."""


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or does not belong to this run."""


class DivergedError(FloatingPointError):
    """Training met a loss or gradient that is not finite; the state before that update has been saved."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Say what ``name`` may have meant: the closest of ``known``, or all of them when none is close."""
    options = sorted(set(known))
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"known are {', '.join(options)}." if options else "none is known."


class Settings(type):
    """Metaclass of the config classes: a mistake in a call raises one ConfigError instead of pydantic's list.

    Nested mappings are validated by pydantic without coming through here, so the key in the message is always
    the full path, such as ``teachers.0.scale``.
    """

    def __call__(cls: type[T], *args: Any, **kwargs: Any) -> T:  # noqa: D102
        positional = [field.name for field in dataclasses.fields(cls) if not field.kw_only]  # type: ignore[arg-type]
        if len(args) > len(positional):
            takes = f"only {' and '.join(positional)}" if positional else "nothing"
            raise ConfigError(
                f"{cls.__name__} takes {takes} by position but got {len(args)} values: name the others."
            )
        try:
            return super().__call__(*args, **kwargs)  # type: ignore[misc]
        except ValidationError as error:
            raise ConfigError(sentence(error, cls)) from None


def field_names(cls: type, path: Sequence[str | int] = ()) -> list[str]:
    """Names a mapping at ``path`` below the config class ``cls`` may use."""
    for part in path:
        if isinstance(part, int):
            continue
        annotation = cls.__pydantic_fields__[part].annotation  # type: ignore[attr-defined]
        cls = next(
            (arg for arg in getattr(annotation, "__args__", ()) if isinstance(arg, Settings)), annotation
        )
    return [field.name for field in dataclasses.fields(cls)]


def sentence(error: ValidationError, cls: type) -> str:
    """The first problem of ``error`` as one sentence, unknown keys first since they explain missing ones."""
    problem = min(error.errors(), key=lambda problem: problem["type"] != "unexpected_keyword_argument")
    path = problem["loc"]
    key = ".".join(str(part) for part in path)
    kind, value, context = problem["type"], _shown(problem["input"]), problem.get("ctx", {})
    if kind == "unexpected_keyword_argument":
        return f"unknown key '{key}': {nearest(str(path[-1]), field_names(cls, path[:-1]))}"
    if kind == "missing":
        return f"key '{key}' of {cls.__name__} is missing: give it a value."
    if kind == "value_error":
        return str(context["error"])
    expected = {
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
    if kind in expected:
        return f"{key} must be {expected[kind].format(**context)}, got {value}."
    return f"{key} cannot be {value}: {problem['msg'][:1].lower()}{problem['msg'][1:]}."


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
