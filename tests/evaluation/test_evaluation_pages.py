"""What the pages on metrics and judges show, run as it stands there."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.examples import edit, noise, save
from tests.evaluation.judging import Bench
from tests.evaluation.models import clip_folder, dino_folder, lpips_folder

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


def run(folder: Path, source: str, **known: Any) -> dict[str, Any]:
    script = folder / "script.py"
    script.write_text(source)
    return runpy.run_path(str(script), known)


def test_the_page_on_judges(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(bench.folder)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-something")
    judging, comparing = blocks("evaluation-judges.md")
    judging = judging.replace("https://api.openai.com/v1", bench.endpoint.url)
    judging = judging.replace("requests_per_minute=120", "requests_per_minute=None")
    images = bench.images(2)
    judge = run(bench.folder, judging, images=images)["judge"]
    assert judge.spent().answers == 4
    assert "Estimate(images=2, answers=4" in capsys.readouterr().out

    run(bench.folder, judging.replace("gpt-4.1", "qwen2.5-vl-72b"), images=images)
    from danceopd.evaluation.judges import AnswerCache, VisionClient, VisionJudge, judge_images, load_rubric

    rows = []
    for model in ("gpt-4.1", "qwen2.5-vl-72b"):
        client = VisionClient(bench.endpoint.url, model)
        again = VisionJudge(client, load_rubric("gedit"), AnswerCache(Path("eval/judge-cache")))
        rows += [row for of_one in judge_images(again, images) for row in of_one]
    assert len(bench.endpoint.bodies) == 8
    capsys.readouterr()
    run(bench.folder, comparing, student_rows=rows, base_rows=rows)
    assert "overall 4" in capsys.readouterr().out


def test_the_page_on_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    measuring, detecting = blocks("evaluation-metrics.md")
    folders = {
        "weights/clip-vit-large-patch14": clip_folder(),
        "weights/dino-vits16": dino_folder(),
        "weights/lpips": lpips_folder(tmp_path),
    }
    for shown, folder in folders.items():
        assert shown in measuring
        measuring = measuring.replace(shown, str(folder))
    measuring = measuring.replace('"cuda"', '"cpu"')
    source, image = save(tmp_path / "s.png", noise(0)), save(tmp_path / "e.png", noise(1))
    found = run(tmp_path, measuring, images=[(edit(key, source), 0, image) for key in ("0", "1")])
    assert "dino_image" in capsys.readouterr().out
    assert {row.metric for row in found["diversity"]} == {"diversity_category"}
    (seen,) = run(tmp_path, detecting)["MyDetector"]().detect(image)
    assert seen.label == "traffic light"
