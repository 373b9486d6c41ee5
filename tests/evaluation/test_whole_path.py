"""From a run and a copy of a benchmark to the report: every format, killed anywhere, paid for once."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from shutil import rmtree
from threading import current_thread, main_thread
from typing import Any

import pytest
import torch

from danceopd.evaluation import (
    Benchmark,
    FormerStudent,
    Report,
    contenders_of_run,
    evaluate_benchmark,
    open_benchmark,
)
from danceopd.evaluation.choice import choose_metrics
from danceopd.evaluation.contenders import AnyContender, Contender, Part
from danceopd.evaluation.judges import VisionJudge
from danceopd.evaluation.store import MEASURED, Store
from danceopd.training import CheckpointError, ConfigError
from tests.cli.running import run as command
from tests.cli.running import told
from tests.evaluation import copies
from tests.evaluation.endpoint import Endpoint, Handler, says, scores
from tests.evaluation.judging import Bench
from tests.evaluation.models import clip_folder, dinov2_folder
from tests.evaluation.runs import run_folder
from tests.page.html import Page

torch.set_num_threads(1)

COPIES: dict[str, Callable[[Path], Path]] = {
    "geneval": copies.geneval,
    "gedit": copies.gedit,
    "imgedit": copies.imgedit,
    "emuedit": copies.emuedit,
    "editeval": copies.editeval,
}


@cache
def metrics() -> Any:
    return choose_metrics(clip=clip_folder(), dino=dinov2_folder())


@cache
def everybody() -> dict[str, AnyContender]:
    """The run's student, its base and its experts, on one family whose encoders are loaded once."""
    return {one.name: one for one in contenders_of_run(run_folder(), ["base", "painter", "editor"])}


def some(*names: str) -> list[AnyContender]:
    return [everybody()[name] for name in ("student", *names)]


def evaluate(
    benchmark: Benchmark, contenders: list[AnyContender], out: Path, judge: VisionJudge | None, **options: Any
) -> Report:
    chosen = metrics()
    settings = {"num_steps": 1, "batch_size": 16, "share": (0, 1), "progress": False, "concurrency": 1}
    report = evaluate_benchmark(
        benchmark,
        contenders,
        out,
        metrics=chosen.metrics,
        diversity=chosen.diversity,
        measured_by=chosen.by,
        judges=[judge] if judge else [],
        **settings | options,
    )
    assert report is not None
    return report


def files_of(folder: Path) -> dict[str, bytes]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.parametrize("name", COPIES)
def test_every_benchmark_from_copy_to_report(name: str, tmp_path: Path, bench: Bench) -> None:
    benchmark = open_benchmark(name, COPIES[name](tmp_path / "copy"))
    report = evaluate(benchmark, some("painter", "editor"), tmp_path / "out", bench.judge())
    assert report.contenders == ("student", "painter", "editor")
    (capability,) = report.leading
    assert report.leading[capability] == ("clip_text" if name == "geneval" else "overall@seer")
    expected = len(benchmark.cases()) * benchmark.images_per_case
    for contender in report.contenders:
        images = [benchmark.image_path(case, number) for case in benchmark.cases() for number in range(1)]
        assert all((tmp_path / "out" / contender / "images" / path).is_file() for path in images)
        rows = (tmp_path / "out" / contender / MEASURED).read_text().splitlines()
        assert sum(json.loads(row)["metric"] == "sharpness" for row in rows) == expected
    measured = {row.metric for row in report.comparisons}
    assert {"sharpness", "clip_text"} <= measured or name not in ("geneval", "emuedit")
    assert measured >= ({"diversity_noise"} if name == "geneval" else {"source_ssim", "dino_image"})
    assert not report.problems and {row.verdict for row in report.comparisons} == {"undecided"}  # too few
    assert f"on {name}" in Page(tmp_path / "out" / "report" / "report.html").text
    # Judged once, every question about every image.
    assert len(set(bench.endpoint.answered)) == len(bench.endpoint.answered)
    assert len(bench.endpoint.answered) == (0 if name == "geneval" else 2 * 3 * expected)


def four(handler: Handler, body: dict[str, Any]) -> None:
    """Every score that is asked for, on ImgEdit's scale."""
    handler.send(200, json.dumps(scores(body, 4)).encode())


class Killed(BaseException):
    """The process is gone."""


@pytest.fixture
def mortal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int | None], None]]:
    """Sets how many more things are written before the process is killed in the middle of the next."""
    left: list[int | None] = [None]
    add, replace = Store.add, Path.replace

    def spend() -> bool:
        # Between the endpoint's answer and the disk nothing can be saved: judging threads are spared.
        if left[0] is None or current_thread() is not main_thread():
            return False
        left[0] -= 1
        return left[0] < 0

    def torn(self: Store, rows: Any) -> None:
        given = list(rows)
        if spend():
            self._file.write(b'{"case": "torn')
            self._file.flush()
            raise Killed
        add(self, given)

    def dying(self: Path, target: Path) -> Path:
        if spend():
            raise Killed
        return replace(self, target)

    monkeypatch.setattr(Store, "add", torn)
    monkeypatch.setattr(Path, "replace", dying)
    yield lambda count: left.__setitem__(0, count)


def test_killed_anywhere_it_goes_on_without_paying_twice(
    tmp_path: Path, bench: Bench, mortal: Callable[[int | None], None]
) -> None:
    """Every call is killed a little later than the one before, until one comes through."""
    endpoint = bench.endpoint
    benchmark = open_benchmark("gedit", copies.gedit(tmp_path / "copy"))
    contenders = some("editor")
    whole = evaluate(benchmark, contenders, tmp_path / "whole", bench.judge())
    paid, endpoint.answered = endpoint.answered, []
    bench.folder = tmp_path / "other"
    for attempt in itertools.count():
        mortal(1 + 2 * attempt)
        try:
            report = evaluate(benchmark, contenders, tmp_path / "out", bench.judge())
            break
        except Killed:
            assert attempt < 40
    mortal(None)
    assert attempt >= 5 and report == whole
    assert sorted(endpoint.answered) == sorted(paid)
    assert files_of(tmp_path / "out" / "report") == files_of(tmp_path / "whole" / "report")
    # Once more: nothing is drawn, measured or asked again, and the report is the same.
    before = files_of(tmp_path / "out")
    endpoint.answered = []
    assert evaluate(benchmark, contenders, tmp_path / "out", bench.judge()) == whole
    assert files_of(tmp_path / "out") == before and not endpoint.answered


def test_what_cannot_be_read_or_is_refused_is_counted_and_tried_again(tmp_path: Path, bench: Bench) -> None:
    copy = copies.imgedit(tmp_path / "copy")
    source = copy / "Benchmark" / "Basic" / copies.IMGEDIT["673"]["id"]
    source.write_bytes(b"\xff\xd8\xff no picture")
    benchmark = open_benchmark("imgedit", copy)
    bench.endpoint.default = says("I'm sorry, but I can't assist with that.")
    contenders = some("base")
    report = evaluate(benchmark, contenders, tmp_path / "out", bench.judge("imgedit"))
    problems = [problem for problem in report.problems if problem.contender == "student"]
    assert sorted(problem.images for problem in problems) == [1, 1]
    refused, unread = sorted(
        (problem.problem for problem in problems), key=lambda text: "refused" not in text
    )
    assert refused.startswith("the judge refused: I'm sorry") and str(tmp_path) not in unread
    assert "000278574.jpg" in unread
    text = Page(tmp_path / "out" / "report" / "report.html").text
    assert "the judge refused" in text and "000278574.jpg" in text
    bench.endpoint.default = four
    again = evaluate(benchmark, contenders, tmp_path / "out", bench.judge("imgedit"))
    assert again.problems == report.problems  # a refusal is paid for, and final
    bench.folder = tmp_path / "other"  # another cache
    answered = evaluate(benchmark, contenders, tmp_path / "out", bench.judge("imgedit")).problems
    assert [problem.problem for problem in answered if problem.contender == "student"] == [unread]


def test_two_runs_are_compared_and_a_former_evaluation_is_read_back(tmp_path: Path) -> None:
    benchmark = open_benchmark("emuedit", copies.emuedit(tmp_path / "copy"))
    first = evaluate(benchmark, some(), tmp_path / "first", None)
    assert not first.comparisons and first.scores
    contenders = contenders_of_run(run_folder(), [str(tmp_path / "first"), str(run_folder())])
    assert [contender.name for contender in contenders] == ["student", "first", "run"]
    assert isinstance(contenders[1], FormerStudent)
    report = evaluate(benchmark, contenders, tmp_path / "second", None)
    assert {row.against for row in report.comparisons} == {"first", "run"}
    assert {row.difference for row in report.comparisons} == {0.0}  # it is the same student
    with pytest.raises(ValueError, match=r"cannot be compared .*seed is 0 there and 1 here"):
        evaluate(benchmark, contenders[:2], tmp_path / "third", None, seed=1)
    with pytest.raises(ValueError, match=r"'.*first' holds another evaluation \(num_steps is 1 there and 2"):
        evaluate(benchmark, contenders[:1], tmp_path / "first", None, num_steps=2)


def test_an_expert_draws_only_what_it_is_compared_on(tmp_path: Path) -> None:
    benchmark = open_benchmark("emuedit", copies.emuedit(tmp_path / "copy"))
    (student,), (_, editor) = some(), contenders_of_run(run_folder(), ["editor:add"])
    report = evaluate(benchmark, [student, editor], tmp_path / "out", None)
    assert {row.category for row in report.comparisons} == {"add"}
    assert [path.name for path in (tmp_path / "out" / "editor.add" / "images").iterdir()] == ["12.png"]
    with pytest.raises(
        ValueError, match="'adds' is no capability or category of emuedit: did you mean 'add'"
    ):
        Part(benchmark, frozenset({"adds"}))


def test_an_evaluator_of_others_finds_no_folder_without_images_of_a_part(tmp_path: Path) -> None:
    """GenEval's lists the samples of every folder that is there."""
    benchmark = open_benchmark("geneval", copies.geneval(tmp_path / "copy"))
    first = benchmark.cases()[0]
    part = Part(benchmark, frozenset({first.category}))
    assert len(part.cases()) < len(benchmark.cases()) == len(Part(benchmark, frozenset()).metadata())
    files = part.metadata()
    assert {path.parent.name for path in files} == {case.key for case in part.cases()}
    assert all(files[path] == benchmark.metadata()[path] for path in files)


def test_all_shares_together_make_what_one_makes(tmp_path: Path) -> None:
    benchmark = open_benchmark("emuedit", copies.emuedit(tmp_path / "copy"))
    contenders = some()
    options: dict[str, Any] = {"num_steps": 1, "batch_size": 1, "progress": False}
    assert evaluate_benchmark(benchmark, contenders, tmp_path / "out", share=(1, 2), **options) is None
    assert not (tmp_path / "out" / "report").exists()
    evaluate_benchmark(benchmark, contenders, tmp_path / "out", share=(0, 2), **options)
    assert len(list((tmp_path / "out" / "student" / "images").iterdir())) == 3
    assert (tmp_path / "out" / "report" / "report.html").is_file()


@pytest.mark.parametrize(
    ("against", "message"),
    [
        (["paintr"], "'paintr' to compare with is neither .* did you mean 'painter'"),
        (["base", "base"], "'base' would be compared twice"),
    ],
)
def test_who_is_not_known_is_told(against: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        contenders_of_run(run_folder(), against)


def test_folders_of_one_name_are_told_apart_and_one_folder_is_named_once(tmp_path: Path) -> None:
    folders = [tmp_path / path for path in ("a/eval/gedit", "b/eval/gedit", "c/b", "painter")]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "evaluation.json").touch()
    found = contenders_of_run(run_folder(), [*map(str, folders), "painter"])
    assert [one.name for one in found] == ["student", "a", "b", "b-2", "painter-2", "painter"]
    with pytest.raises(ValueError, match="'a' would be compared twice"):
        contenders_of_run(run_folder(), [str(folders[0]), f"{folders[0].parent}/../eval/gedit"])


def test_what_is_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not the folder of a run"):
        contenders_of_run(tmp_path)
    (tmp_path / "config.yaml").write_bytes((run_folder() / "config.yaml").read_bytes())
    with pytest.raises(CheckpointError, match="has no checkpoint yet"):
        contenders_of_run(tmp_path)
    with pytest.raises(ValueError, match="a contender's name must be letters"):
        Contender("a/b", None, lambda: None)  # type: ignore[arg-type, return-value]


def test_the_command_line(tmp_path: Path, endpoint: Endpoint) -> None:
    copy = copies.gedit(tmp_path / "copy")
    asked = (
        "eval",
        "--benchmark",
        "gedit",
        "--data",
        copy,
        "--run",
        run_folder(),
        "--against",
        "base,editor",
    )
    asked += ("--out", tmp_path / "out", "--steps", 1, "--judge", endpoint.url, "--judge-model", "seer")
    result = command(*asked, "--dry-run")
    assert result.exit_code == 0, result.output
    assert "student: 2 of 2 images to make" in result.stdout
    assert "base: 4 answers to pay for" in result.stdout and not endpoint.bodies
    assert not (tmp_path / "out").exists()
    asked += ("--judge-key-env", "JUDGE_KEY", "--metrics", "sharpness,clip", "--clip", clip_folder())
    result = command(*asked)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(tmp_path / "out" / "report" / "report.html")
    assert "judge: 12 answers paid for (12000 + 600 tokens), 0 from the cache" in result.stderr
    names = {info["name"] for info in json.loads((tmp_path / "out/evaluation.json").read_text())["measures"]}
    assert {"overall@seer", "clip_text", "sharpness"} <= names and "source_l1" not in names
    assert command(*asked).exit_code == 0 and len(endpoint.answered) == 12
    rmtree(tmp_path / "judge-cache")
    (tmp_path / "out" / "editor" / "measured.jsonl").unlink()
    result = command(*asked, "--dry-run")
    assert "student: 0 of 2 images to make" in result.stdout
    assert "base: 0 answers to pay for" in result.stdout  # what is measured is not judged again
    assert "editor: 4 answers to pay for" in result.stdout


def test_an_edited_rubric_is_another_judge_and_old_answers_do(tmp_path: Path, bench: Bench) -> None:
    benchmark = open_benchmark("gedit", copies.gedit(tmp_path / "copy"))
    text = (files("danceopd.evaluation.judges") / "rubrics" / "gedit.yaml").read_text(encoding="utf-8")
    rubric, overall = tmp_path / "gedit.yaml", []

    def differing(handler: Handler, body: dict[str, Any]) -> None:
        handler.endpoint.answered.append(handler.endpoint.content_of(body))
        value = 4 if '"naturalness"' in json.dumps(scores(body)).replace("\\", "") else 9
        handler.send(200, json.dumps(scores(body, value)).encode())

    bench.endpoint.default = differing
    for way in ("geometric mean", "minimum"):
        rubric.write_text(text.replace("geometric mean", way), encoding="utf-8")
        report = evaluate(benchmark, some(), tmp_path / "out", bench.judge(rubric))
        overall += [s.mean for s in report.scores if (s.metric, s.category) == ("overall@seer", None)]
    assert overall == [6.0, 4.0]
    assert len(bench.endpoint.answered) == 2 * len(benchmark.cases())  # what was paid for is not asked again


def test_two_processes_report_what_one_does(tmp_path: Path) -> None:
    copy = copies.gedit(tmp_path / "copy")
    asked = ["eval", str(run_folder()), "--benchmark", "gedit", "--data", str(copy), "--against", "base"]
    asked += ["--steps", "1", "--batch-size", "1", "--metrics", "sharpness", "--out"]
    assert command(*asked, tmp_path / "one").exit_code == 0
    launch = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "danceopd")
    done = subprocess.run(
        [*launch, *asked, str(tmp_path / "two")],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == [str(tmp_path / "two" / "report" / "report.html")]
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / name / "report").iterdir() if path.is_file()}
        for name in ("one", "two")
    )
    assert one and one == two


_JUDGED = ("--judge", "http://h", "--judge-model", "m", "--judge-key-env", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--benchmark", "gedit", "--run", "x"], ["'x' is not the folder of a run"]),
        (["x", "--against", "base"], ["--against is for a benchmark"]),
        ([], ["nothing to evaluate"]),
        (["x", "--run", "y"], ["'x' and --run y are two runs"]),
        (["x", "--benchmark", "gedit", "--ground", "t2i"], ["--ground and --prompts are for ShapesWorld"]),
        (["x", "--benchmark", "gedit", "--judge", "http://h"], ["needs both an address and a model"]),
        (["RUN", "--benchmark", "gedit"], ["--data is missing", "docs/evaluation.md"]),
        (["RUN", "--benchmark", "gedt", "--data", "."], ["did you mean 'gedit'"]),
        (["x", "--benchmark", "gedt"], ["benchmark 'gedt' is unknown", "did you mean 'gedit'"]),
        (["RUN", "--benchmark", "shapesworld", "--option", "x"], ["must be KEY=VALUE"]),
        (["RUN", "--benchmark", "gedit", "--data", "COPY", "--metrics", "clip"], ["'clip' needs weights"]),
        (["x", "--judge-prices", "1,2"], ["--judge-prices is for a benchmark"]),
        (
            ["RUN", "--benchmark", "shapesworld", "--ground", "t2i", *_JUDGED],
            ["--judge is of no use", "'gedit'"],
        ),
        (["RUN", "--benchmark", "gedit", "--data", "COPY", *_JUDGED, "--judge-prices", "2"], ["two numbers"]),
    ],
)
def test_mistakes_are_one_sentence(
    tmp_path: Path, arguments: list[str], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    copy = copies.gedit(tmp_path / "copy") if "COPY" in arguments else tmp_path
    named = {"RUN": str(run_folder()), "COPY": str(copy)}
    told(command("eval", *(named.get(text, text) for text in arguments), "--out", tmp_path / "out"), *words)
