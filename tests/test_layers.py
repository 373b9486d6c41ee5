"""Imports run downwards only, also those inside functions and those for type checkers."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From top to bottom: a module may import from its own line and from those below. A name stands for what lies
# under it too, unless that has a line of its own.
LAYERS = (
    ("danceopd", "danceopd.__main__", "danceopd.cli"),  # `danceopd` hands out names and loads them when used
    ("danceopd.evaluation",),
    (
        "danceopd.shapesworld.demo",
        "danceopd.shapesworld.report",
        "danceopd.shapesworld.scoreboard",
        "danceopd.shapesworld.train_experts",
    ),
    ("danceopd.training",),
    ("danceopd.families",),  # load_family, which knows every family
    ("danceopd.shapesworld",),
    ("danceopd.sampling",),
    ("danceopd.data",),  # rows of files, whatever family reads them
    (
        "danceopd.families.base",
        "danceopd.families.config",
        "danceopd.families.device",
        "danceopd.families.lora",
    ),  # what a family is, and what it is asked for
    ("danceopd.methods",),
    ("danceopd.flow",),
    ("danceopd.schedulers",),
    ("danceopd.ops",),
    ("danceopd.page", "danceopd.pictures"),
    ("danceopd.files", "danceopd.settings", "danceopd.signals"),
)
# Who alone may import these.
RESERVED = {
    "_danceopd": ("danceopd.ops",),
    "datasets": ("danceopd.data",),
    "diffusers": ("danceopd.families", "danceopd.schedulers", "danceopd.shapesworld"),
    "pyarrow": ("danceopd.data",),
}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted((ROOT / "danceopd").rglob("*.py"))}


def layer(module: str) -> int:
    """Position in LAYERS of the longest name that `module` lies under; `danceopd` stands for itself alone."""
    places = {
        name: place
        for place, names in enumerate(LAYERS)
        for name in names
        if module == name or (module.startswith(f"{name}.") and name != "danceopd")
    }
    assert places, f"{module} has no place in LAYERS: give it one"
    return places[max(places, key=len)]


def imports(source: str, module: str, is_package: bool = False) -> Iterator[str]:
    """Every module that `source` imports anywhere, and what it takes from the bare package `danceopd`."""
    tree = ast.parse(source)
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name != "danceopd")
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield inner if inner in MODULES or base == "danceopd" else base
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "danceopd":
                yield f"danceopd.{node.attr}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            named = node.args and isinstance(node.args[0], ast.Constant)
            assert named or module == "danceopd", f"{module} hides what it imports: write the name out"
            if named:
                yield ast.literal_eval(node.args[0])


def inner_imports(module: str) -> set[str]:
    """The modules of this package that `module` imports; a name of the facade counts as the facade."""
    path = MODULES[module]
    found = imports(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")
    ours = {name for name in found if name.partition(".")[0] == "danceopd" and name != "danceopd.__version__"}
    return {name if name in MODULES else "danceopd" for name in ours} - {module}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_downwards_only(module: str) -> None:
    upwards = {name for name in inner_imports(module) if layer(name) < layer(module)}
    assert not upwards, f"{module} imports from above: {', '.join(sorted(upwards))}"


@pytest.mark.parametrize("module", MODULES)
def test_some_packages_are_imported_in_one_place(module: str) -> None:
    path = MODULES[module]
    for name in imports(path.read_text(encoding="utf-8"), module, path.name == "__init__.py"):
        homes = RESERVED.get(name.partition(".")[0])
        assert homes is None or f"{module}.".startswith(tuple(f"{home}." for home in homes)), (
            f"{module} imports {name}, which only {' and '.join(homes)} may"
        )


def test_no_modules_import_each_other_in_a_circle() -> None:
    TopologicalSorter({module: inner_imports(module) for module in MODULES}).prepare()


def test_every_line_of_the_order_is_about_a_module() -> None:
    names = [name for names in LAYERS for name in names]
    assert set(names) <= MODULES.keys() and len(set(names)) == len(names)


def test_no_folder_hides_behind_a_module() -> None:
    assert not [path for path in MODULES.values() if path.with_suffix("").is_dir()]


def test_imports_are_found_wherever_they_stand() -> None:
    source = """
import torch, danceopd
from danceopd import ops, sample, __version__
from . import rollout
from .fields import ModelField
from ..methods.merge import merge_weights
if TYPE_CHECKING:
    from danceopd.training.config import Route
def late():
    import danceopd.cli
    from danceopd.families import base, load_family
    importlib.import_module("danceopd.sampling")
    return danceopd.load_student
"""
    assert set(imports(source, "danceopd.flow.query")) == {
        "torch",
        "danceopd.ops",
        "danceopd.sample",
        "danceopd.__version__",
        "danceopd.flow.rollout",
        "danceopd.flow.fields",
        "danceopd.methods.merge",
        "danceopd.training.config",
        "danceopd.cli",
        "danceopd.families.base",
        "danceopd.families",
        "danceopd.sampling",
        "danceopd.load_student",
    }
    assert set(imports("from . import x\nfrom .y import z", "danceopd.flow", is_package=True)) == {
        "danceopd.flow",
        "danceopd.flow.y",
    }
    with pytest.raises(AssertionError, match="hides what it imports"):
        list(imports("import_module(name)", "danceopd.flow.query"))


def test_the_longest_name_gives_the_layer() -> None:
    names = ("danceopd.cli", "danceopd.training.plan", "danceopd.families", "danceopd.families.base")
    assert [LAYERS[layer(name)][0] for name in names] == [
        "danceopd",
        "danceopd.training",
        "danceopd.families",
        "danceopd.families.base",
    ]
    with pytest.raises(AssertionError, match="no place"):
        layer("danceopd.drawer")
