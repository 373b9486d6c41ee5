"""What fields are made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from torch import nn


def parts_of(field: object) -> Iterator[object]:
    """A field and all fields inside it, as far as they are dataclasses: guided, mixed, offloaded ones."""
    yield field
    if dataclasses.is_dataclass(field):
        for name in (entry.name for entry in dataclasses.fields(field)):
            value = getattr(field, name)
            for inner in value if isinstance(value, (list, tuple)) else (value,):
                if dataclasses.is_dataclass(inner) and callable(inner):
                    yield from parts_of(inner)


def models_of(field: object) -> list[nn.Module]:
    """The models behind a field, each once."""
    models = [
        getattr(part, entry.name)
        for part in parts_of(field)
        if dataclasses.is_dataclass(part)
        for entry in dataclasses.fields(part)
        if isinstance(getattr(part, entry.name), nn.Module)
    ]
    return list({id(model): model for model in models}.values())
