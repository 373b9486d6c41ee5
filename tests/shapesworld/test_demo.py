"""The demo from end to end, at a length that teaches nothing: what it writes, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from danceopd.shapesworld import demo
from danceopd.training import ConfigError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "SETTINGS", tuple(replace(s, updates=2) for s in demo.SETTINGS))
        demo.run_demo(output_dir=folder, seed=3, prompts=2)
    return folder


def test_metrics_hold_every_model_category_time_and_seed(finished: Path) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["seed"] == 3
    for setting in demo.SETTINGS:
        told = metrics["settings"][setting.name]
        assert list(told["scores"]) == [
            *dict.fromkeys(["base", *setting.experts.values()]),
            "weight merge",
            "start",
            "student",
        ]
        assert told["seconds"].keys() == {"training", "scoring"}
        for scores in told["scores"].values():
            assert list(scores["categories"]) == list(setting.experts)
            assert all(
                0 <= share <= 1 for shares in scores["categories"].values() for share in shares.values()
            )


def test_report_needs_no_other_file(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    assert "data:image/png;base64," in page
    assert "http" not in page
    assert 'src="' not in page.replace('src="data:', "")
    for setting in demo.SETTINGS:
        assert setting.name in page


def test_pictures_have_one_column_per_model(finished: Path) -> None:
    for setting in demo.SETTINGS:
        with Image.open(finished / f"{setting.name}.png") as picture:
            assert picture.width > 80 * (4 + len(setting.experts))


def test_nothing_unfinished_is_left(finished: Path) -> None:
    assert not list(finished.rglob("*.part"))


def test_another_seed_does_not_overwrite(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "SETTINGS", tuple(replace(s, updates=2) for s in demo.SETTINGS))
    with pytest.raises(ConfigError, match="seed"):
        demo.run_demo(output_dir=finished, seed=4, prompts=2)


def test_verdict_compares_means_over_grounds() -> None:
    setting = demo.SETTINGS[0]

    def scores(local: float, glob: float) -> demo.Scores:
        return demo.Scores({"local": {"a": local}, "global": {"b": glob}}, prompts=1, diversity={})

    told = demo.verdict(
        setting, {"local": scores(0.8, 0.0), "global": scores(0.0, 0.9), "student": scores(0.6, 0.45)}
    )
    assert told["beats_all"] and told["best_other"] == "global"
    assert told["kept_of_expert"] == pytest.approx({"local": 0.75, "global": 0.5})
    strong = {"local": scores(0.8, 0.3), "global": scores(0.0, 0.9), "student": scores(0.5, 0.5)}
    assert not demo.verdict(setting, strong)["beats_all"]
