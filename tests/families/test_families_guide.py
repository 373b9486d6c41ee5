"""docs/families.md says what the code says, and its examples work as they are written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from danceopd.data import check_rows, load_rows
from danceopd.families import StudentConfig, load_family
from danceopd.families.checkpoint import ModelCheckpoint
from danceopd.families.conventions import Conventions
from danceopd.families.export import FORMATS
from danceopd.families.pretrained import PretrainedFamily
from danceopd.families.registry import _BUILT_IN
from tests.families.parity import folder_of
from tests.families.tiny import KINDS
from tests.families.tiny.calls import picture

torch.set_num_threads(1)

GUIDE = (Path(__file__).parents[2] / "docs" / "families.md").read_text(encoding="utf-8")


def section(name: str) -> str:
    return GUIDE.partition(f"\n## {name}\n")[2].partition("\n## ")[0]


def cells(text: str) -> list[list[str]]:
    """The cells of a section's tables, without their headers."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"
    ]
    return [
        row for place, row in enumerate(rows) if "---" not in (row[0], rows[min(place + 1, len(rows) - 1)][0])
    ]


def block(kind: str) -> str:
    (only,) = re.findall(rf"^```{kind}\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)
    return str(only)


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_knows_every_pipeline_and_its_sources(kind: str) -> None:
    family = load_family(folder_of(kind), resolution=64)
    assert isinstance(family, PretrainedFamily)
    conventions = family.conventions
    (row,) = (row for row in cells(GUIDE.partition("\n## ")[0]) if f"`{conventions.pipeline_name}`" == row[1])
    numbers = [int(number) for number in re.findall(r"\d+", row[3])] or [0]
    assert max(numbers) == conventions.max_sources
    assert (min(numbers) > 0) == conventions.needs_source
    assert ("text-to-image" in row[2]) != conventions.needs_source
    assert ("editing" in row[2]) == (conventions.max_sources > 0)
    assert (Path(__file__).parents[2] / "docs" / re.findall(r"\((.*?)\)", row[4])[0]).is_file()


@pytest.mark.parametrize("conventions", _BUILT_IN, ids=lambda kind: kind.name)
def test_default_targets_are_those_of_the_code(conventions: type[Conventions]) -> None:
    rows = {name: set(re.findall(r"`(at[a-z._0-9]+)`", text)) for name, text in cells(section("Students"))}
    (name,) = (name for name in rows if conventions.name in name)
    shared = rows["Stable Diffusion 3, FLUX.1, Qwen-Image"] if conventions.name == "FLUX.2" else set()
    assert rows[name] | shared == set(conventions.targets)


def test_the_examples_of_files_are_rows(tmp_path: Path) -> None:
    for name in ("house.png", "sofa.jpg", "cat.png"):
        picture(1).save(tmp_path / name)
    (tmp_path / "rows.csv").write_text(block("csv"))
    (tmp_path / "rows.jsonl").write_text(block("json"))
    plain, edits = (load_rows(tmp_path / name) for name in ("rows.csv", "rows.jsonl"))
    for rows in (plain, edits):
        check_rows(rows)
    assert [row.size for row in plain] == [(1024, 768), None]
    assert [len(row.sources) for row in edits] == [1, 2]


def test_the_cache_filled_beforehand_needs_no_transformer_and_spares_the_encoders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    picture(1).save(tmp_path / "house.png")
    (tmp_path / "prompts.csv").write_text('prompt\n"a red circle"\n')
    (tmp_path / "edits.jsonl").write_text('{"prompt": "make it snow", "source": "house.png"}\n')
    example = block("python")
    for text, ours in (
        ("path/to/FLUX.2-dev", str(folder_of("flux2"))),
        ("path/to/prompts.csv", "prompts.csv"),
        ("path/to/edits.jsonl", "edits.jsonl"),
        ('"cuda"', '"cpu"'),
        ("resolution=1024", "resolution=64"),
    ):
        assert example.count(text) == 1
        example = example.replace(text, ours)

    def not_now(*_: object, **__: object) -> None:
        raise AssertionError("it was loaded")

    with monkeypatch.context() as patch:
        patch.setattr(ModelCheckpoint, "transformer", not_now)
        exec(compile(example, "families.md", "exec"), {"__name__": "guide"})
    monkeypatch.setattr(ModelCheckpoint, "pipeline", not_now)
    family = load_family(folder_of("flux2"), dtype=torch.bfloat16, resolution=64)
    rows = [family.data(name) for name in ("prompts.csv", "edits.jsonl")]
    for prepared in family.prepare(rows, Path("runs/flux2-cache")):
        assert len(prepared.condition([0])) == 1
    with pytest.raises(AssertionError, match="it was loaded"):
        load_family(folder_of("flux2"), resolution=64).prepare(rows, Path("runs/flux2-cache"))


def test_defaults_that_the_guide_names() -> None:
    assert StudentConfig().rank == 16 and "rank 16" in section("Students")
    assert [row[0] for row in cells(section("Export"))] == [f"`{name}`" for name in FORMATS]
    vectors = {row[0]: row[2] for row in cells(section("Guidance"))}
    for kind, name in (("flux1-dev", "FLUX.1 dev, Kontext"), ("flux2", "FLUX.2 dev")):
        family = load_family(folder_of(kind), resolution=64)
        assert isinstance(family, PretrainedFamily)
        assert f"{family.conventions.default_guidance:g} when not given" in vectors[name]
