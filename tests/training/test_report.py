from __future__ import annotations

import json
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from danceopd.training import (
    Callback,
    ConfigError,
    DanceOPDTrainer,
    DivergedError,
    Route,
    Teacher,
    write_run_report,
)
from tests.page.html import Page

MakeTrainer = Callable[..., DanceOPDTrainer]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def test_a_finished_run_leaves_a_page_with_curves_routes_and_pictures(
    make_trainer: MakeTrainer, folder: Path
) -> None:
    make_trainer(validation={"every": 6, "rows": 1}).train()
    page = Page(folder / "report.html")
    assert "Finished: 12 updates." in page.text and "2 routes to 2 frozen teachers" in page.text
    assert len(page.images) == 3
    assert page.text.index("After 12 updates") < page.text.index("After 6 updates")
    charts = [label.partition(" over ")[0] for label in page.labels]
    assert charts[:5] == ["Loss per route", "Gradient norm", "Learning rate", "Speed", "Noise level queried"]
    assert "one from" in page.labels[0] and "two from" in page.labels[0]
    assert "learning_rate: 0.01" in page.text  # the settings
    assert "Scoreboard" not in page.text


def test_a_run_that_was_stopped_leaves_one_too(make_trainer: MakeTrainer, folder: Path) -> None:
    class Stop(Callback):
        def on_update(self, line: Mapping[str, Any]) -> None:
            if line["step"] == 3:
                signal.raise_signal(signal.SIGTERM)

    make_trainer(callbacks=[Stop()]).train()
    assert "3 of 12 updates; the same command continues." in Page(folder / "report.html").text
    make_trainer().train()
    assert "Finished: 12 updates." in Page(folder / "report.html").text


def test_a_run_that_failed_says_of_what(make_trainer: MakeTrainer, folder: Path) -> None:
    trainer = make_trainer(teachers=[Teacher("one", checkpoint="nan")], routes=[Route("one", data="7")])
    with pytest.raises(DivergedError) as error:
        trainer.train()
    page = Page(folder / "report.html")
    assert f"The run ended by an error: {error.value}" in page.text
    assert page.labels == [] and "0 of 12 updates" in page.text


def long_run(make_trainer: MakeTrainer, folder: Path, updates: int, routes: int) -> None:
    """The folder of a long run of many routes, without training it."""
    names = [f"route <{number}>" for number in range(routes)]
    trainer = make_trainer(
        teachers=[Teacher(name) for name in names],
        routes=[Route(name, data="3") for name in names],
        max_steps=1,
    )
    trainer.train()
    content = (folder / "config.yaml").read_text().replace("max_steps: 1\n", f"max_steps: {updates}\n")
    (folder / "config.yaml").write_text(content)
    histogram = {"count": [2] * 10, "error": [0.2] * 10}
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(1, updates + 1):
            line = {
                "step": step,
                "loss": 1 / step,
                "losses": {name: 1 / step for name in names if (step + len(name)) % 3},
                "samples": dict.fromkeys(names, 1),
                "sigma": 0.3,
                "forwards": 9,
                "grad_norm": 1.0,
                "learning_rate": 1e-4,
                "time": {"seconds": 1.5, "samples_per_second": 4.0},
                "histograms": {name: histogram for name in names[:-1]},
            }
            file.write(json.dumps(line) + "\n")
        file.write('{"step": 99999, "lo')  # the run goes on: a line is being written


def test_a_long_run_makes_a_small_page(make_trainer: MakeTrainer, folder: Path) -> None:
    long_run(make_trainer, folder, updates=4000, routes=8)
    path = write_run_report(folder)
    page = Page(path)
    assert path == folder / "report.html" and path.stat().st_size < 300_000
    assert "Finished: 4,000 updates." in page.text and "1:40:00" in page.text
    assert "route <7>" in page.text and "(dashed)" in page.text
    assert sum(": error" in label for label in page.labels) == 7
    assert "first tenth" in page.text


def test_scores_and_versions_are_shown_when_they_are_there(make_trainer: MakeTrainer, folder: Path) -> None:
    make_trainer().train()
    scores = {
        "mean": 0.5,
        "grounds": {"local": 0.5},
        "categories": {"local": {"recolour": 0.25, "remove": 0.75}},
        "prompts_per_category": 4,
        "diversity": {},
    }
    (folder / "scores.json").write_text(json.dumps(scores))
    (folder / "scores-base.json").write_text(
        json.dumps(scores | {"categories": {"local": {"recolour": 0.125}}, "mean": 0.125})
    )
    (folder / "provenance.json").write_text(json.dumps({"versions": {"torch": "9.9"}}))
    page = Page(write_run_report(folder))
    assert "% of tasks fulfilled base student mean 12.5 50.0 local 50.0 50.0 recolour 12.5 25.0" in page.text
    assert "remove – 75.0" in page.text and "torch 9.9." in page.text


def test_only_some_of_many_pictures_are_shown_the_first_and_the_last_among_them(
    make_trainer: MakeTrainer, folder: Path
) -> None:
    make_trainer(validation={"every": 1, "rows": 1, "num_steps": 1}).train()
    page = Page(folder / "report.html")
    assert len(page.images) == 6
    assert "After 0 updates" in page.text and "After 12 updates" in page.text


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not the folder of a run"):
        write_run_report(tmp_path)


def test_what_cannot_be_shown_is_left_out_and_ends_no_run(
    make_trainer: MakeTrainer, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "grids").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(folder / "grids/step-final.png")
    (folder / "grids/step-00000003.png").write_bytes(b"\x89PNG\r\n\x1a\n cut short")
    bad = {"scores.json": "[", "scores-a.json": "[]", "scores-b.json": '{"mean": 1, "grounds": {}}'}
    for name, text in bad.items():
        (folder / name).write_text(text)
    assert make_trainer().train().exported is not None
    page, told = Page(folder / "report.html"), capsys.readouterr().err
    assert "Finished: 12 updates." in page.text and not page.images and "Scoreboard" not in page.text
    assert [line for line in told.splitlines() if "the report leaves out" not in line] == []
    assert told.count("\n") == 4 and all(name in told for name in [*bad, "step-00000003.png"])

    with (folder / "metrics.jsonl").open("a") as lines:
        lines.write("a note\n")
    assert make_trainer().train().step == 12  # once more, which only exports
    assert "danceopd: no report was written: ConfigError: " in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"metrics.jsonl' cannot be read"):
        write_run_report(folder)


def test_totals_over_some_of_the_updates_say_so(make_trainer: MakeTrainer, folder: Path) -> None:
    make_trainer().train()
    page = Page(folder / "report.html")
    assert "in logged updates" not in page.text and "about" not in page.text
    make_trainer(output_dir=folder.with_name("some"), log_every=5).train()
    page = Page(folder.with_name("some") / "report.html")
    assert "weight samples in logged updates loss at first" in page.text
    assert "one: states asked in logged updates" in page.text and "time in updates about " in page.text
