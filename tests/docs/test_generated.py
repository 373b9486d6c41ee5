"""The pages that are written from the code say what the code says."""

from __future__ import annotations

import dataclasses
import inspect
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import typer

from danceopd import ops
from danceopd.cli import app
from danceopd.training import RunConfig

DOCS = Path(__file__).parents[2] / "docs"
_GROUP: Any = typer.main.get_command(app)
COMMANDS = _GROUP.commands


@pytest.fixture(scope="module")
def pages() -> dict[Path, str]:
    found: dict[Path, str] = runpy.run_path(str(DOCS / "generate.py"))["pages"]()
    return found


def test_the_generated_pages_are_up_to_date(pages: dict[Path, str]) -> None:
    committed = {Path("cli") / path.name for path in (DOCS / "cli").iterdir()} | {
        Path("config.md"),
        Path("kernels.md"),
        Path("replication.md"),
    }
    assert committed == pages.keys(), "run `make docs`"
    for path, text in pages.items():
        assert (DOCS / path).read_text(encoding="utf-8") == text, f"{path} is out of date: run `make docs`"


def test_what_follows_a_table_is_no_row_of_it(pages: dict[Path, str]) -> None:
    for path in {*pages, *(path.relative_to(DOCS) for path in DOCS.rglob("*.md"))}:
        text = pages[path] if path in pages else (DOCS / path).read_text(encoding="utf-8")
        text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
        assert not re.search(r"^\|.*\n(?!\||\n|\Z).*", text, re.MULTILINE), (
            f"{path}: an empty line is missing"
        )


@pytest.mark.parametrize("name", COMMANDS)
def test_a_commands_page_has_all_that_it_takes(name: str, pages: dict[Path, str]) -> None:
    page = pages[Path("cli") / f"{name}.md"]
    for param in COMMANDS[name].params:
        if param.param_type_name == "option":
            assert all(f"`{option}`" in page for option in [*param.opts, *param.secondary_opts])
        else:
            assert (param.metavar or param.name.upper()) in page
    assert f"`danceopd {name}`" in pages[Path("cli/README.md")]


def test_the_config_has_every_key(pages: dict[Path, str]) -> None:
    for field in dataclasses.fields(RunConfig):
        assert f"| `{field.name}` |" in pages[Path("config.md")]


def test_the_kernels_have_every_call(pages: dict[Path, str]) -> None:
    page = pages[Path("kernels.md")]
    for name in ops.__all__:
        if inspect.isfunction(getattr(ops, name)):
            row = page.partition(f"| `{name}(")[2].partition("\n")[0]
            arguments = inspect.signature(getattr(ops, name)).parameters
            assert row and all(argument in row for argument in arguments)
