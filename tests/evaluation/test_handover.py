"""What the evaluators of others read, and what is read back from them."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from danceopd.evaluation import Case
from danceopd.evaluation.judges import read_evalscope, read_geneval, write_evalscope
from tests.evaluation.examples import caption, edit, noise, save


class Copy:
    """A benchmark of a few tasks, laid out as its evaluator reads it."""

    def __init__(self, cases: list[Case], number: int, pattern: str) -> None:
        self._cases, self._pattern = cases, pattern
        self.name, self.images_per_case = "copy", number

    def cases(self) -> list[Case]:
        return self._cases

    def image_path(self, case: Case, number: int) -> PurePosixPath:
        return PurePosixPath(self._pattern.format(key=case.key, number=number))

    def metadata(self) -> dict[PurePosixPath, bytes]:
        return {}

    def fingerprint(self) -> str:
        return "copy"


def gedit(tmp_path: Path, keys: tuple[str, ...] = ("aa", "bb")) -> Copy:
    cases = [edit(f"color_alter.en.{key}", tmp_path, about={"key": key}) for key in keys]
    return Copy(cases, 1, "fullset/{key}.png")


def test_evalscope_is_told_of_ids_and_images(tmp_path: Path) -> None:
    benchmark = gedit(tmp_path)
    (tmp_path / "fullset").mkdir()
    first, second = (tmp_path / "fullset" / f"color_alter.en.{key}.png" for key in ("aa", "bb"))
    save(first, noise(0))
    with pytest.raises(ValueError, match=r"1 of 2 images are missing, such as '.*bb.png'"):
        write_evalscope(benchmark, tmp_path, tmp_path / "gedit.jsonl")
    save(second, noise(1))
    lines = write_evalscope(benchmark, tmp_path, tmp_path / "gedit.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"id": "aa", "image_path": str(first)},
        {"id": "bb", "image_path": str(second)},
    ]
    keyless = Copy([edit("0", tmp_path)], 1, "{key}.png")
    save(tmp_path / "0.png", noise(0))
    with pytest.raises(ValueError, match="case '0' has no GEdit-Bench key"):
        write_evalscope(keyless, tmp_path, tmp_path / "gedit.jsonl")
    twice = Copy([edit(language, tmp_path, about={"key": "aa"}) for language in ("en", "cn")], 1, "{key}.png")
    with pytest.raises(ValueError, match="'en' and 'cn' have one GEdit-Bench key: hand over one language"):
        write_evalscope(twice, tmp_path, tmp_path / "gedit.jsonl")


def review(key: str, value: dict[str, Any]) -> str:
    about = {"id": key, "key": key, "task_type": "color_alter"}
    score = {"score": {"value": value}, "sample_id": 0, "sample_metadata": about}
    return json.dumps({"index": 0, "input": "", "target": None, "sample_score": score}) + "\n"


@pytest.mark.parametrize(
    "names",
    [
        ("semantic_consistency", "perceptual_similarity", "normalized_score"),
        ("Semantic Consistency", "Perceptual Similarity", "Overall"),
    ],
)
def test_evalscopes_reviews_become_rows(tmp_path: Path, names: tuple[str, ...]) -> None:
    folder = tmp_path / "reviews" / "offline-model"
    folder.mkdir(parents=True)
    scores = dict(zip(names, (4.0, 9.0, 6.0), strict=True))
    (folder / "gedit_color_alter.jsonl").write_text(review("bb", scores) + review("cc", scores))
    rows = {(row.case, row.metric): row for row in read_evalscope(gedit(tmp_path), tmp_path)}
    assert [
        rows["color_alter.en.bb", f"{name}@evalscope"].value
        for name in ("semantic_consistency", "perceptual_quality", "overall")
    ] == [4, 9, 6]
    absent = rows["color_alter.en.aa", "overall@evalscope"]
    assert absent.value is None and absent.problem == "EvalScope says nothing of this image."
    assert len(rows) == 6


def test_reviews_of_no_use_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no reviews/MODEL/gedit_SUBSET.jsonl"):
        read_evalscope(gedit(tmp_path), tmp_path)
    folder = tmp_path / "reviews" / "one"
    folder.mkdir(parents=True)
    (folder / "gedit_x.jsonl").write_text('{"index": 0}\n')
    with pytest.raises(ValueError, match=r"line 1 of '.*gedit_x.jsonl' is no review of GEdit-Bench"):
        read_evalscope(gedit(tmp_path), tmp_path)
    (folder / "gedit_x.jsonl").write_text(review("aa", {}) + '{"cut')
    with pytest.raises(ValueError, match=r"line 2 of .* is not JSON: was the evaluator interrupted"):
        read_evalscope(gedit(tmp_path), tmp_path)
    (tmp_path / "reviews" / "two").mkdir()
    (tmp_path / "reviews" / "two" / "gedit_x.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"reviews of several models .one, two."):
        read_evalscope(gedit(tmp_path), tmp_path)


def test_an_image_that_evalscope_has_no_scores_for_is_a_problem(tmp_path: Path) -> None:
    file = tmp_path / "reviews" / "one" / "gedit_x.jsonl"
    file.parent.mkdir(parents=True)
    bad: list[Any] = [None, {"overall": None}, {"overall": True}]
    for value in bad:
        file.write_text(review("aa", value) + review("bb", {"overall": 3}))
        rows = {row.case: row for row in read_evalscope(gedit(tmp_path), tmp_path) if "overall" in row.metric}
        assert rows["color_alter.en.aa"].problem and rows["color_alter.en.bb"].value == 3
    for value in ("overall", [1]):
        file.write_text(review("aa", value))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"line 1 of .* is no review of GEdit-Bench"):
            read_evalscope(gedit(tmp_path), tmp_path)
    benchmark = Copy([caption("0")], 1, "{key}.png")
    for line in ({"filename": None, "correct": True}, {"filename": "0.png", "correct": None}, None):
        file.write_text(json.dumps(line))
        with pytest.raises(ValueError, match=r"line 1 of .* is no result"):
            read_geneval(benchmark, file)


def test_genevals_results_become_rows(tmp_path: Path) -> None:
    benchmark = Copy([caption("00000"), caption("00001")], 2, "{key}/samples/{number:04d}.png")
    results = tmp_path / "results.jsonl"

    def result(place: str, correct: object) -> str:
        about = {"filename": f"../out/student/images/{place}", "tag": "single_object", "prompt": "p"}
        return (
            json.dumps(about | {"correct": correct, "reason": "", "metadata": "{}", "details": "{}"}) + "\n"
        )

    results.write_text(result("00001/samples/0001.png", True) + result("00000/samples/0000.png", False))
    rows = {(row.case, row.number): row for row in read_geneval(benchmark, results)}
    assert rows["00001", 1].value == 1.0 and rows["00000", 0].value == 0.0
    assert rows["00000", 1].value is None and "says nothing" in str(rows["00000", 1].problem)
    assert len(rows) == 4 and {row.metric for row in rows.values()} == {"correct@geneval"}
    results.write_text(result("00002/samples/0000.png", True))
    with pytest.raises(ValueError, match=r"line 1 of .* is no result for this benchmark"):
        read_geneval(benchmark, results)
    results.write_text("[]\n")
    with pytest.raises(ValueError, match="is no result of GenEval"):
        read_geneval(benchmark, results)
