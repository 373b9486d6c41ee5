"""The guide to adding a benchmark, followed as it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from danceopd.cli import app
from danceopd.data import DataError

from .pages import ROOT, blocks

torch.set_num_threads(1)

PAGE = "docs/adding-a-benchmark.md"


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the guide's code defines, run beside a copy of the benchmark and a run."""
    monkeypatch.chdir(tmp_path)
    Path("colours").mkdir()
    Path("colours/colours.jsonl").write_text(blocks(PAGE, "json")[0])
    config = ROOT / "configs" / "shapesworld_local_global.yaml"
    less = ["output_dir=runs/x", "max_steps=1", "warmup_steps=0", "batch_size=2", "--no-check"]
    result = CliRunner().invoke(app, ["train", str(config), *less])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = {"__name__": "guide"}
    for block in blocks(PAGE, "python"):
        exec(compile(block, PAGE, "exec"), found)
    return found


def test_the_guide_to_adding_a_benchmark(names: dict[str, Any]) -> None:
    out = Path("runs/x/eval/colours")
    assert sorted(path.name for path in (out / "student/images/red").iterdir()) == [
        "001-0.png",
        "001-1.png",
        "003-0.png",
        "003-1.png",
    ]
    assert "What student kept on colours" in (out / "report" / "report.html").read_text()
    assert any(score.mean > 0 for score in names["report"].scores)
    Path("colours/colours.jsonl").write_text('{"id": 1}\nx\n')
    with pytest.raises(DataError, match=r"2 faults: .*line 1 of colours\.jsonl .*line 2 of"):
        names["open_colours"](Path("colours"))
