"""Images that change, processes that die, folders with gaps, and pictures that no judge takes."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from danceopd.evaluation import (
    Case,
    FormerStudent,
    Measured,
    Report,
    add_measured,
    evaluate_benchmark,
    open_benchmark,
)
from danceopd.evaluation import run as running
from danceopd.evaluation.base import Metric, MetricInfo
from danceopd.evaluation.benchmarks import BenchmarkCopy
from danceopd.evaluation.contenders import AnyContender, Contender, Part
from danceopd.evaluation.judges import JudgeUnavailable
from danceopd.evaluation.measure import digests_of, judge_all
from danceopd.evaluation.store import MEASURED, Store, open_store
from danceopd.families import Teacher
from tests.evaluation import endpoint as serve
from tests.evaluation.drawing import family
from tests.evaluation.examples import edit, noise, save
from tests.evaluation.judging import Bench


class Sizes(Metric):
    """The bytes of an image; keeps of which cases it was asked."""

    measures = (MetricInfo("size", None, "Size"),)

    def __init__(self) -> None:
        self.asked: list[str] = []

    def applies(self, case: Case) -> bool:
        return True

    def measure(self, case: Case, image: Path) -> Mapping[str, float]:
        self.asked.append(case.key)
        return {"size": image.stat().st_size}


def shapes(folder: Path) -> BenchmarkCopy:
    copy = open_benchmark("shapesworld", folder / "copy", prompts=1)
    assert isinstance(copy, BenchmarkCopy)
    return copy


def evaluate(benchmark: BenchmarkCopy, out: Path, metric: Metric, *others: AnyContender) -> Report:
    student = Contender("student", family(), lambda: family().teacher(Teacher("edit", checkpoint="edit")))
    report = evaluate_benchmark(
        benchmark, [student, *others], out, metrics=[metric], num_steps=1, share=(0, 1), progress=False
    )
    assert report is not None
    return report


def test_an_image_that_was_replaced_is_measured_again(tmp_path: Path) -> None:
    benchmark, metric, out = shapes(tmp_path), Sizes(), tmp_path / "out"
    first = evaluate(benchmark, out, metric)
    written = (out / "report" / "report.json").read_bytes()
    case, metric.asked = benchmark.cases()[3], []
    image = out / "student" / "images" / benchmark.image_path(case, 0)
    drawn = image.read_bytes()
    save(image, noise(0))
    assert evaluate(benchmark, out, metric) != first and metric.asked == [case.key]
    image.unlink()  # and is drawn again
    assert evaluate(benchmark, out, metric) == first and image.read_bytes() == drawn
    assert metric.asked == [case.key] * 2 and (out / "report" / "report.json").read_bytes() == written
    evaluate(benchmark, out, metric)
    assert len(metric.asked) == 2


def test_a_measure_is_what_it_was_when_it_is_not_measured_again(tmp_path: Path) -> None:
    benchmark, out = shapes(tmp_path), tmp_path / "out"
    hanging, other = Sizes(), Sizes()
    hanging.measures = (MetricInfo("spread", None, "Spread", independent=False),)
    hanging.measure = lambda case, image: {"spread": 1.0}  # type: ignore[method-assign]
    first = evaluate(benchmark, out, hanging)
    assert evaluate(benchmark, out, other).measures == (*first.measures, *other.measures)


def test_numbers_that_others_measured_belong_to_their_images_too(tmp_path: Path) -> None:
    benchmark, out, info = shapes(tmp_path), tmp_path / "out", MetricInfo("theirs", True, "Theirs")
    evaluate(benchmark, out, Sizes())
    folder = out / "student" / "images"
    rows = [
        Measured(case.key, case.category, case.capability, 0, "theirs", 1.0) for case in benchmark.cases()
    ]
    add_measured(out, "student", rows, [info], images=digests_of(benchmark, folder))
    case = benchmark.cases()[0]

    def counted() -> int:
        scores = evaluate(benchmark, out, Sizes()).scores
        return sum(score.cases for score in scores if score.metric == "theirs" and score.category)

    assert counted() == len(benchmark.cases())
    save(folder / benchmark.image_path(case, 0), noise(0))
    assert counted() == len(benchmark.cases()) - 1


@pytest.mark.parametrize("margin", [-1.0, float("nan"), float("inf")])
def test_a_margin_of_no_use_is_told_before_anything_is_drawn(tmp_path: Path, margin: float) -> None:
    student = Contender("student", family(), lambda: pytest.fail("drawn"))
    with pytest.raises(ValueError, match="margin must be at least 0"):
        evaluate_benchmark(shapes(tmp_path), [student], tmp_path / "out", num_steps=1, margin=margin)


def test_a_former_evaluation_with_gaps_is_told_before_anything_is_drawn(tmp_path: Path) -> None:
    benchmark, former = shapes(tmp_path), tmp_path / "former"
    evaluate(benchmark, former, Sizes())
    for name in (MEASURED, "generation.json"):
        file = former / "student" / name
        whole = file.read_bytes()
        for content in (None, b"{}\n"):
            file.unlink() if content is None else file.write_bytes(content)
            with pytest.raises(ValueError, match=rf"'{file}' is .*(copy|delete)"):
                evaluate(benchmark, tmp_path / "out", Sizes(), FormerStudent("former", former))
            assert not (tmp_path / "out").exists()
            file.write_bytes(whole)


class Clock:
    """Takes the place of the module `time`; something happens at a time."""

    def __init__(self) -> None:
        self.now, self.plan = 0.0, dict[float, Path]()

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += 60 * seconds
        assert self.now < 2 * 3600
        if path := self.plan.get(self.now):
            save(path, noise(0))


def test_processes_that_make_nothing_are_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    monkeypatch.setattr(running, "time", clock)
    cases = tuple(Case(key, "c", "t2i", "p") for key in "abc")
    benchmark = BenchmarkCopy("few", cases, lambda case, number: PurePosixPath(f"{case.key}.png"))
    (tmp_path / "images").mkdir()
    clock.plan = {25 * 60.0: tmp_path / "images" / "a.png"}
    with pytest.raises(OSError, match=r"30 minutes in vain for 2 images .*b.png'.* same command again"):
        running._wait_for_all(Part(benchmark, frozenset()), tmp_path, shown=True)
    assert clock.now == 55 * 60, "an image is a sign of life"
    told = capsys.readouterr().err.splitlines()
    assert [line.split(" of ")[0] for line in told] == ["waiting for 3 images", "waiting for 2 images"]


def test_pictures_that_no_judge_takes_keep_no_other_from_being_judged(tmp_path: Path, bench: Bench) -> None:
    source = save(tmp_path / "source.png", noise(0))
    cases = tuple(edit(f"{number:02d}", source) for number in range(10))
    benchmark = BenchmarkCopy("few", cases, lambda case, number: PurePosixPath(f"{case.key}.png"))
    for number, case in enumerate(cases):
        save(tmp_path / f"{case.key}.png", noise(number + 1))
    bad = [base64.b64encode((tmp_path / f"{case.key}.png").read_bytes()).decode() for case in cases[:6]]

    def act(handler: serve.Handler, body: dict[str, Any]) -> None:
        text = json.dumps(body)
        (serve.status(500) if any(one in text for one in bad) else serve.good)(handler, body)

    def judge(store: Store) -> dict[str, bool]:
        asked = bench.judge(client={"attempts": 1})
        judge_all(benchmark, tmp_path, store, asked, concurrency=1, progress=False)
        return {row.case: row.problem is None for row in store.rows()}

    with open_store(tmp_path / MEASURED) as store:
        bench.endpoint.default = serve.dead
        for _ in range(3):  # an endpoint that never answered is none to make a report of
            with pytest.raises(JudgeUnavailable, match="5 images in a row"):
                judge(store)
    (tmp_path / MEASURED).unlink()
    with open_store(tmp_path / MEASURED) as store:
        bench.endpoint.default = act
        with pytest.raises(JudgeUnavailable, match="5 images in a row"):
            judge(store)
        expected = {case.key: case not in cases[:6] for case in cases}
        assert judge(store) == expected
        assert judge(store) == expected, "what is left is told, and ends nothing"
        bench.endpoint.default = serve.good
        assert all(judge(store).values())
