"""Evaluators of others from the command line, as the page shows it, and options that would change nothing."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from tests.cli.running import run as command
from tests.cli.running import told
from tests.docs.pages import read
from tests.evaluation import copies
from tests.evaluation.runs import run_folder
from tests.evaluation.test_handover import review

torch.set_num_threads(1)

_KEYS = [key for _, language, key, _ in copies.GEDIT if language == "en"]
_NAMES = ("semantic_consistency", "perceptual_similarity", "normalized_score")


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def reviews(folder: Path, keys: list[str], score: float) -> None:
    """What EvalScope writes."""
    (folder / "reviews" / "offline").mkdir(parents=True)
    lines = [review(key, dict.fromkeys(_NAMES, score)) for key in keys]
    (folder / "reviews" / "offline" / "gedit_color_alter.jsonl").write_text("".join(lines))


def result(image: Path, correct: bool) -> str:
    """A line that GenEval's evaluator writes."""
    return json.dumps({"filename": str(image), "tag": "t", "prompt": "p", "correct": correct}) + "\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the page's commands are typed."""
    monkeypatch.chdir(tmp_path)
    copies.gedit(tmp_path / "data" / "GEdit-Bench")
    copies.geneval(tmp_path / "data" / "geneval")
    shutil.copytree(run_folder(), tmp_path / "runs" / "x")
    return tmp_path


def test_the_page_on_the_evaluators_of_others(place: Path) -> None:
    section = read("docs/evaluation.md").partition("## The evaluators of others")[2].partition("\n## ")[0]
    # The tiny run's expert for edits has another name.
    section = re.sub(r"\bedit(?=:edit|=|: |\.edit)", "editor", section)
    handing, reading, handing_t2i, reading_t2i = (
        [*shlex.split(line)[1:], "--steps", "1", "--metrics", "sharpness"]
        for line in re.findall(r"^danceopd eval .*$", section, re.MULTILINE)
    )
    said, said_t2i = re.findall(r"^```text\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)

    done = command(*handing)
    assert (done.exit_code, done.stdout) == (0, said), done.output
    assert "student images 2/2" in done.stderr and "editor.edit images 2/2" in done.stderr
    assert "give each file to EvalScope" in done.stderr
    lines = list(map(json.loads, Path("runs/x/eval/gedit/student/evalscope.jsonl").read_text().splitlines()))
    assert [line["id"] for line in lines] == _KEYS
    assert all(Path(line["image_path"]).is_file() for line in lines)

    reviews(place / "evalscope" / "student", _KEYS, 6.0)
    reviews(place / "evalscope" / "base", _KEYS[:1], 4.0)
    reviews(place / "evalscope" / "edit", _KEYS, 8.0)
    images = files_of(place / "runs/x/eval/gedit/student/images")
    before = files_of(place)
    done = command(*reading, "--dry-run")
    assert done.exit_code == 0 and "base: EvalScope has numbers about 1 of 2 images" in done.stderr
    assert files_of(place) == before
    done = command(*reading)
    assert done.exit_code == 0, done.output
    assert "1 image lacks a number (base 1)" in done.stderr
    assert files_of(place / "runs/x/eval/gedit/student/images") == images
    report = json.loads(Path("runs/x/eval/gedit/report/report.json").read_bytes())
    assert report["leading"] == {"edit": "overall@evalscope"}
    means = {
        row["contender"]: (row["mean"], row["problems"])
        for row in report["scores"]
        if row["metric"] == "overall@evalscope" and row["category"] is None
    }
    assert means == {"student": (6.0, 0), "base": (4.0, 1), "editor": (8.0, 0)}
    assert [problem["problem"] for problem in report["problems"]] == ["EvalScope says nothing of this image."]

    done = command(*handing_t2i)
    assert (done.exit_code, done.stdout) == (0, said_t2i), done.output
    for name, correct in (("student", True), ("base", False)):
        drawn = sorted(Path(f"runs/x/eval/geneval/{name}/images").glob("*/samples/*.png"))
        Path(f"{name}.jsonl").write_text("".join(result(image, correct) for image in drawn))
    done = command(*reading_t2i[:-8], "--results", "student=student.jsonl", *reading_t2i[-4:])
    assert done.exit_code == 0, done.output
    assert "says nothing of base: give its results too, by --results base=PATH" in done.stderr
    report = json.loads(Path("runs/x/eval/geneval/report/report.json").read_bytes())
    assert report["leading"] == {"t2i": "sharpness"}  # which compares with somebody
    assert command(*reading_t2i).exit_code == 0
    report = json.loads(Path("runs/x/eval/geneval/report/report.json").read_bytes())
    (overall,) = (
        row for row in report["comparisons"] if row["metric"] == "correct@geneval" and not row["category"]
    )
    assert (overall["student"], overall["other"]) == (1.0, 0.0)


_JUDGED = ("--judge", "http://h", "--judge-model", "m", "--judge-key-env", "")
_GEDIT = ("RUN", "--benchmark", "gedit", "--data", "COPY")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["RUN", "--margin", "0.05"], ["--margin is for a benchmark"]),
        (["RUN", "--judge-concurrency", "4"], ["--judge-concurrency is for a benchmark"]),
        ([*_GEDIT, "--judge-rpm", "9"], ["--judge-rpm is for a judge: give --judge"]),
        ([*_GEDIT, "--judge-key-env", "OPENAI_API_KEY"], ["--judge-key-env is for a judge"]),
        ([*_GEDIT, "--metrics", "sharpness,fulfilled"], ["--metrics fulfilled is for ShapesWorld"]),
        ([*_GEDIT, "--metrics", "sharpness", "--clip", "COPY"], ["--clip is of no use", "clip or diversity"]),
        (
            ["RUN", "--benchmark", "geneval", "--data", "T2I", "--metrics", "pixels"],
            ["pixels is about edits"],
        ),
        (["RUN", "--benchmark", "geneval", "--data", "T2I", "--lpips", "COPY"], ["--lpips is about edits"]),
        ([*_GEDIT, "--hand-over", "evalscop"], ["--hand-over evalscop is", "did you mean 'evalscope'"]),
        (
            [*_GEDIT, "--hand-over", "geneval"],
            ["--hand-over geneval is for the benchmark geneval", "drop it"],
        ),
        (
            [*_GEDIT, "--hand-over", "evalscope", "--option", "language=all"],
            ["one language at a time", "give --option language=en"],
        ),
        (
            ["RUN", "--benchmark", "shapesworld", "--prompts", "1", "--results", "student=COPY"],
            ["--results student=COPY is for gedit (EvalScope) and geneval", "drop it"],
        ),
        ([*_GEDIT, "--results", "student=COPY"], ["nothing is evaluated in", "without --results first"]),
    ],
)
def test_options_that_would_change_nothing_are_refused(
    place: Path, arguments: list[str], words: list[str]
) -> None:
    named = {"RUN": "runs/x", "COPY": "data/GEdit-Bench", "T2I": "data/geneval"}
    told(command("eval", *(named.get(text, text) for text in arguments), "--out", "out"), *words)


def test_results_of_no_use_are_named(place: Path) -> None:
    asked = ["eval", "--run", "runs/x", "--benchmark", "gedit", "--data", "data/GEdit-Bench", "--steps", "1"]
    asked += ["--metrics", "sharpness"]
    assert command(*asked).exit_code == 0
    shutil.copytree("runs/x/eval/gedit", "former")
    reviews(place / "good", _KEYS, 5.0)
    reviews(place / "another", ["none"], 5.0)
    before = files_of(place)
    for results, words in {
        ("student",): ["--results 'student' must be NAME=PATH, where PATH is EvalScope's output folder"],
        ("studnt=good",): ["'studnt' is not evaluated: did you mean 'student'?"],
        ("student=none",): ["--results student=none: 'none' is not there; name EvalScope's output folder"],
        ("student=data",): ["--results student=data: 'data' has no reviews/MODEL"],
        ("student=another",): ["--results student=another", "has no number about these images"],
        ("student=good", "student=good"): ["is the second for 'student'"],
        ("former=good",): ["--results former=good: 'former' was evaluated before, in 'former'"],
    }.items():
        given = [text for one in results for text in ("--results", one)]
        told(command(*asked, "--against", "former", *given), *words)
    assert files_of(place) == before
    told(
        command(*asked, "--option", "language=cn", "--results", "student=good"),
        "holds an evaluation of another benchmark or copy",
    )


@pytest.mark.parametrize("option", ["suite=uge", ""])
def test_a_dry_run_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str) -> None:
    monkeypatch.chdir(tmp_path)
    copies.imgedit(tmp_path / "copy")
    shutil.copytree(run_folder(), tmp_path / "x")
    before = files_of(tmp_path)
    asked = ["eval", "--run", "x", "--against", "base", "--dry-run", "--benchmark"]
    if option:
        asked += ["imgedit", "--data", "copy", "--option", option, *_JUDGED, "--judge-prices", "2,8"]
    else:
        asked += ["shapesworld", "--prompts", "1"]
    done = command(*asked)
    assert done.exit_code == 0, done.output
    assert f"student: {1 if option else 12} of" in done.stdout
    assert ("together: 2 answers to pay for, about" in done.stdout) == bool(option)
    assert files_of(tmp_path) == before
