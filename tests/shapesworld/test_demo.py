"""The demo from end to end, at a length that teaches nothing: what it writes, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from danceopd.shapesworld import demo
from danceopd.training import ConfigError, list_checkpoints
from tests.page.html import Page

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
    page = Page(finished / "report.html")
    assert len(page.images) == len(page.labels) == len(demo.SETTINGS)
    for setting in demo.SETTINGS:
        assert setting.name in page.text


def test_pictures_have_one_column_per_model(finished: Path) -> None:
    for setting in demo.SETTINGS:
        with Image.open(finished / f"{setting.name}.png") as picture:
            assert picture.width > 80 * (4 + len(setting.experts))


def test_nothing_unfinished_is_left(finished: Path) -> None:
    assert not list(finished.rglob("*.part"))


def test_another_seed_is_refused_before_anything_is_started_or_written(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "SETTINGS", tuple(replace(s, updates=2) for s in demo.SETTINGS))
    monkeypatch.setattr(demo, "ProcessPoolExecutor", None)
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    with pytest.raises(ConfigError, match="seed"):
        demo.run_demo(output_dir=finished, seed=4, prompts=2)
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


PATIENCE = 300  # seconds, for a machine that is busy with other things

# Two settings that would train for days, one of which cannot write its picture.
ENDLESS = """
from dataclasses import replace
from pathlib import Path
from danceopd.shapesworld import demo

if __name__ == "__main__":
    first, second = demo.SETTINGS
    demo.SETTINGS = (replace(first, updates=10**6), replace(second, updates={updates}))
    demo.run_demo(output_dir=Path("demo"), prompts=1)
"""


def start_demo(folder: Path, updates: int) -> subprocess.Popen[str]:
    script = folder / "script.py"
    script.write_text(ENDLESS.format(updates=updates))
    return subprocess.Popen(
        [sys.executable, script], cwd=folder, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait(process: subprocess.Popen[str]) -> str:
    """What it said before it ended; all of its group is killed if it does not."""
    try:
        return process.communicate(timeout=PATIENCE)[1]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def check_that_all_stopped(process: subprocess.Popen[str], folder: Path, saved: list[str]) -> None:
    """No process is left, nothing pretends to be a result, and the runs can be continued."""
    for _ in range(10 * PATIENCE):  # multiprocessing's own tracker ends just after the process that it serves
        if not group_lives(process.pid):
            break
        time.sleep(0.1)
    assert not group_lives(process.pid)
    assert process.returncode != 0
    assert not (folder / "demo/metrics.json").exists()
    for name in saved:
        assert list_checkpoints(folder / "demo" / name / "checkpoints")


def test_ctrl_c_stops_and_saves_both_settings(tmp_path: Path) -> None:
    process = start_demo(tmp_path, updates=10**6)
    lines = [tmp_path / "demo" / setting.name / "metrics.jsonl" for setting in demo.SETTINGS]
    for _ in range(10 * PATIENCE):
        if process.poll() is not None or all(path.exists() and path.stat().st_size for path in lines):
            break
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    wait(process)
    check_that_all_stopped(process, tmp_path, [setting.name for setting in demo.SETTINGS])


def test_a_setting_that_fails_ends_the_other(tmp_path: Path) -> None:
    failing = demo.SETTINGS[1].name
    (tmp_path / f"demo/{failing}.png").mkdir(parents=True)
    process = start_demo(tmp_path, updates=1)
    said = wait(process)
    assert f"{failing}.png" in said.splitlines()[-1]
    check_that_all_stopped(process, tmp_path, [setting.name for setting in demo.SETTINGS])


def test_verdict_compares_means_over_grounds() -> None:
    setting = demo.SETTINGS[0]

    def scores(local: float, glob: float) -> demo.Scores:
        return demo.Scores(
            {"local": {"a": local}, "global": {"b": glob}}, prompts=1, diversity={}, fulfilled={}
        )

    told = demo.verdict(
        setting, {"local": scores(0.8, 0.0), "global": scores(0.0, 0.9), "student": scores(0.6, 0.45)}
    )
    assert told["beats_all"] and told["best_other"] == "global"
    assert told["kept_of_expert"] == pytest.approx({"local": 0.75, "global": 0.5})
    strong = {"local": scores(0.8, 0.3), "global": scores(0.0, 0.9), "student": scores(0.5, 0.5)}
    assert not demo.verdict(setting, strong)["beats_all"]
