"""Every key of a config in words: its type, range, default and meaning, read off the settings classes."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from danceopd.families import StudentConfig, Teacher
from danceopd.methods import METHODS
from danceopd.settings import Shown
from danceopd.training.config import Route, RunConfig, ValidationSettings
from danceopd.training.query import QuerySettings


class Key(NamedTuple):
    """A key of a config.

    Attributes:
        name: as it is written in YAML.
        type: what it takes.
        range: of a number, or of the length of a list; empty where there is none.
        default: as it would be written; None where the key must be given, empty where the description tells.
        text: what it means.
    """

    name: str
    type: str
    range: str
    default: str | None
    text: str

    @property
    def note(self) -> str:
        """Type, range and default in a line."""
        default = "required" if self.default is None else f"default: {self.default}" if self.default else ""
        return "; ".join(filter(None, [", ".join(filter(None, [self.type, self.range])), default]))


class Group(NamedTuple):
    """Keys that belong together.

    Attributes:
        title: what they are about.
        text: more of it; may be empty.
        keys: in their order.
    """

    title: str
    text: str
    keys: list[Key]


# Where a top-level key is shown; one that is not named here comes under the last title.
_TITLES: Final[Mapping[str, str]] = {
    "Models and data": "family teachers routes student dtype resolution device sharding cache_dir",
    "Method": "method route_per num_rollout_steps rollout_solver query student_guidance_scale drop_condition "
    "unedited_weight",
    "Optimisation": "max_steps batch_size gradient_accumulation_steps rollout_batch_size compile optimizer "
    "learning_rate lr_schedule warmup_steps weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm "
    "ema_decay seed",
    "Output and watching": "output_dir save_every keep_checkpoints log_every validation report_to progress",
    "More": "",
}
# Settings classes by the place of their keys in a config.
_NESTED: Final[Mapping[str, type]] = {
    "teachers.N": Teacher,
    "routes.N": Route,
    "student": StudentConfig,
    "query": QuerySettings,
    "validation": ValidationSettings,
}


def describe_settings() -> list[Group]:
    """All keys of a run's config, in groups: those of the top level, then each nested one's."""
    top = {key.name: key for key in _keys(RunConfig)}
    groups = []
    for title, names in _TITLES.items():
        chosen = [top.pop(name) for name in names.split() if name in top]
        groups.append(Group(title, "", chosen if names else list(top.values())))
    nested = [(f"{place}.", cls) for place, cls in _NESTED.items()]
    methods = [(f"method: {{name: {name}, ...}}", cls) for name, cls in METHODS.items()]
    for title, cls in nested + methods:
        groups.append(Group(title, _first_paragraph(cls), list(_keys(cls))))
    return [group for group in groups if group.keys]


def _keys(cls: Any) -> Iterator[Key]:
    for name, field in cls.__pydantic_fields__.items():
        if field.exclude:  # of Python alone
            continue
        kind = _type(_annotation(field))
        # That a text is not empty goes without saying.
        limits = "" if kind.startswith("text") else _range(field.metadata)
        yield Key(name, kind, limits, _default(field), field.description or "")


def _annotation(field: FieldInfo) -> Any:
    shown = [part for part in field.metadata if isinstance(part, Shown)]
    return Annotated[field.annotation, shown[0]] if shown else field.annotation


def _type(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        shown = [part for part in inner[1:] if isinstance(part, Shown)]
        return shown[0].text if shown else _type(inner[0])
    if origin in (Union, types.UnionType):
        return " or ".join(_type(part) for part in inner)
    if origin is Literal:
        return " | ".join(map(str, inner))
    if origin is list:
        return f"list of {_type(inner[0])}"
    if origin is dict:
        return f"mapping of {_type(inner[0])} to {_type(inner[1])}"
    if dataclasses.is_dataclass(annotation):
        return "mapping (see below)"
    return _NAMES[annotation]


_NAMES: Final[Mapping[Any, str]] = {
    int: "integer",
    float: "number",
    bool: "true or false",
    str: "text",
    Path: "path",
    type(None): "null",
}


def _range(metadata: list[Any]) -> str:
    """Of constraints such as those of `pydantic.Field`, in words."""
    limits = {name: getattr(part, name) for part in metadata for name in _LIMITS if hasattr(part, name)}
    return ", ".join(_LIMITS[name].format(_number(limits[name])) for name in _LIMITS if name in limits)


_LIMITS: Final = {
    "ge": "at least {}",
    "gt": "above {}",
    "le": "at most {}",
    "lt": "below {}",
    "min_length": "{} or more",
}


def _number(value: float) -> str:
    power = int(value).bit_length() - 1
    return f"2**{power}" if power > 20 and value == 2**power else f"{value:g}"


def _default(field: FieldInfo) -> str | None:
    if field.is_required():
        return None
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "null"
    if dataclasses.is_dataclass(value):
        return str(getattr(value, "name", ""))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _first_paragraph(cls: type) -> str:
    return " ".join((cls.__doc__ or "").split("\n\n")[0].replace("`", "").split())
