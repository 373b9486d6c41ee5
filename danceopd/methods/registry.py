"""The methods by the names that configs use."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, Final

from danceopd.methods.base import Method
from danceopd.methods.danceopd import DanceOPD
from danceopd.methods.diffusionopd import DiffusionOPD
from danceopd.methods.flowopd import FlowOPD
from danceopd.methods.offpolicy import OffPolicy
from danceopd.methods.sft import SFT
from danceopd.methods.soft import Soft

METHODS: Final = MappingProxyType(
    {method.name: method for method in (DanceOPD, DiffusionOPD, FlowOPD, OffPolicy, SFT, Soft)}
)
"""Settings class of each method."""


def make_method(name: str, **options: Any) -> Method:
    """A method with its settings.

    Raises:
        KeyError: the name is unknown.
        ConfigError: an option is unknown or out of range.
    """
    return METHODS[name](**options)
