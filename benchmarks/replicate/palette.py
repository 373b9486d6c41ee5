"""One colour and marker per arm, in all figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from .arms import MAIN, REFERENCE, REFERENCES, place_of

_USUAL: Final = "#c0392b"
_FIXED: Final = {
    REFERENCE: _USUAL,
    "diffusionopd": "#2471a3",
    "flowopd": "#7d3c98",
    "offpolicy": "#d68910",
    "joint training": "#1e8449",
    "weight merge": "#7b5b3a",
    "source: base": "#85929e",
    "source: edit": "#515a5a",
    "source: local": "#85929e",
    "source: global": "#515a5a",
}
# Of what has no colour of its own, by its order among the arms of a figure.
_OTHERS: Final = ("#148f9b", "#b3246b", "#6c7a0e", "#4a5fc1", "#a8581b", "#2e8b67", "#8a6d9e", "#5d6d7e")
_MARKERS: Final = "sD^vP*Xph<>"


def colours_of(arms: Iterable[str], suite: str = MAIN) -> Mapping[str, str]:
    """The colour of each arm of a figure; the reference of every suite has that of the method."""
    usual = REFERENCES.get(suite, REFERENCE)
    arms = set(arms)
    # A method at one of several learning rates looks like the method.
    methods = {arm: _FIXED[name] for arm in arms if (name := arm.partition(", ")[0]) in _FIXED}
    others = sorted(arms - {usual, *_FIXED, *methods}, key=place_of)
    return {
        **_FIXED,
        **methods,
        usual: _USUAL,
        **{arm: _OTHERS[place % len(_OTHERS)] for place, arm in enumerate(others)},
    }


def markers_of(arms: Iterable[str], suite: str = MAIN) -> Mapping[str, str]:
    """The marker of each, for those who tell colours badly."""
    usual = REFERENCES.get(suite, REFERENCE)
    listed = sorted({*_FIXED, *arms} - {usual}, key=place_of)
    return {usual: "o", **{arm: _MARKERS[place % len(_MARKERS)] for place, arm in enumerate(listed)}}


def pale(colour: str) -> str:
    """The same with white mixed in; opaque, so that no grid shows through."""
    parts = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return "#" + "".join(f"{round(255 - 0.42 * (255 - part)):02x}" for part in parts)
