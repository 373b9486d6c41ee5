"""What pyproject.toml allows, constraints.txt pins."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # which pytest brings along

ROOT = Path(__file__).parents[1]


def asked() -> dict[str, Requirement]:
    """Every requirement of the package, its build and its checks, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lines = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["dev"],
    ]
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}


def pinned() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert len({canonicalize_name(pin.name) for pin in pins}) == len(pins)
    return {canonicalize_name(pin.name): pin for pin in pins}


@pytest.mark.parametrize("name", asked())
def test_every_requirement_is_pinned_within_its_range(name: str) -> None:
    (pin,) = pinned()[name].specifier
    assert pin.operator == "=="
    assert asked()[name].specifier.contains(pin.version)


def test_the_makefile_pins_what_it_installs() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    installs = [line for line in makefile.splitlines() if "pip install" in line]
    assert installs and all("--constraint constraints.txt" in line for line in installs)
    named = next(line for line in makefile.splitlines() if "scikit-build-core" in line).split()[1:]
    assert {canonicalize_name(name) for name in named} <= pinned().keys()
