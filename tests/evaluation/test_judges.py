"""Judges over a real socket: what they ask, how numbers come about, and what is paid for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from danceopd.evaluation import JudgeError
from danceopd.evaluation.judges import Prices, Refused, Usage, Useless, judge_images, load_rubric
from danceopd.settings import ConfigError
from tests.evaluation import endpoint as serve
from tests.evaluation.endpoint import KEY
from tests.evaluation.examples import caption, noise, save
from tests.evaluation.judging import Bench, values

ROOT = Path(__file__).parents[2]


# -- what is asked and how the numbers come about -----------------------------------------------------------


def test_scores_become_the_published_measures(bench: Bench) -> None:
    case, image = bench.one()
    answers = [{"success": 8, "restraint": 4}, {"naturalness": 9, "cleanness": 10}]
    bench.endpoint.script = [serve.says(json.dumps({"scores": scores})) for scores in answers]
    judge = bench.judge()
    assert judge.name == "gedit by seer" and judge.applies(case) and not judge.applies(caption("0"))
    given = judge.judge(case, image)
    assert given == {
        "semantic_consistency@seer": 4,
        "perceptual_quality@seer": 9,
        "overall@seer": pytest.approx(6),
    }
    assert list(given) == [info.name for info in judge.measures]


def test_a_request_holds_the_images_in_order_and_the_instruction(bench: Bench) -> None:
    case, image = bench.one()
    case = replace(case, prompt="make {it} red")
    bench.judge().judge(case, image)
    semantic, quality = ([part for part in body["messages"][0]["content"]] for body in bench.endpoint.bodies)
    assert [part["type"] for part in semantic] == ["text", "image_url", "image_url"]
    assert [part["type"] for part in quality] == ["text", "image_url"], "quality is judged without the source"
    assert semantic[2] == quality[1] != semantic[1]
    assert "make {it} red" in semantic[0]["text"] and "{instruction}" not in semantic[0]["text"]
    assert semantic[1]["image_url"]["url"].startswith("data:image/png;base64,")
    assert bench.endpoint.paths == ["/v1/chat/completions"] * 2
    assert bench.endpoint.authorisations == [f"Bearer {KEY}"] * 2
    assert {body["model"] for body in bench.endpoint.bodies} == {"seer"}


def test_imgedit_asks_by_kind_of_edit_and_takes_the_mean(bench: Bench) -> None:
    judge = bench.judge("imgedit")
    case, image = bench.one()
    assert not judge.applies(replace(case, category="uge"))
    texts = set()
    for kind in ("add", "remove", "replace", "adjust", "background", "style", "action", "extract", "compose"):
        case = replace(case, category=kind)
        assert judge.applies(case)
        answer = {"adherence": 5, "quality": 3, "preservation": 4}
        bench.endpoint.script = [serve.says(json.dumps(answer))]  # without the outer object, too
        assert judge.judge(case, image)["imgedit@seer"] == pytest.approx(4)
        texts.add(bench.endpoint.bodies[-1]["messages"][0]["content"][0]["text"])
    assert len(texts) == 9
    named = replace(case, category="animals", about={"edit_type": "style"})
    assert judge.applies(named)


def test_imgedits_hard_suite_gets_one_score(bench: Bench) -> None:
    judge = bench.judge("imgedit-uge")
    case, image = bench.one()
    assert not judge.applies(replace(case, category="add"))
    bench.endpoint.script = [serve.says(json.dumps({"overall": 2}))]
    assert judge.judge(replace(case, category="uge"), image) == {"imgedit_uge@seer": 2.0}


def test_a_rubric_of_the_users_own_is_used(bench: Bench) -> None:
    path = bench.folder / "mine.yaml"
    rubric = {
        "name": "mine",
        "scale": [0, 2],
        "preamble": "Look.",
        "questions": [
            {"name": "q", "shows": ["edited"], "text": "Is it {instruction}?", "scores": {"yes": "how far"}}
        ],
        "measures": [{"name": "done", "title": "Done", "combine": "mean", "of": ["yes"]}],
    }
    path.write_text(yaml.safe_dump(rubric))
    case, image = bench.one()
    bench.endpoint.script = [serve.says('{"scores": {"yes": 2}}')]
    assert bench.judge(path).judge(case, image) == {"done@seer": 2}

    def refused(message: str, **change: Any) -> None:
        path.write_text(yaml.safe_dump(rubric | change))
        with pytest.raises(ConfigError, match=message):
            load_rubric(path)

    refused("mine.yaml.*scale must rise", scale=[2, 0])
    refused(
        "measure 'done' is made of 'no', which no question scores",
        measures=[{"name": "done", "title": "Done", "combine": "mean", "of": ["no"]}],
    )
    refused(
        "questions.0.shows", questions=[{"name": "q", "shows": ["mask"], "text": "?", "scores": {"yes": "x"}}]
    )
    refused("a score is asked for twice", questions=[*rubric["questions"], *rubric["questions"]])  # type: ignore[misc]
    with pytest.raises(
        ValueError, match="rubric 'none' is not there: name one of gedit, imgedit, imgedit-uge, or a file"
    ):
        load_rubric("none")
    path.write_text("a: [")
    with pytest.raises(ValueError, match="is not YAML"):
        load_rubric(path)


def test_images_of_other_formats_are_sent_as_png(bench: Bench) -> None:
    case, image = bench.one()
    jpeg, tiff = bench.folder / "e.jpg", bench.folder / "e.tiff"
    Image.open(image).save(jpeg)
    Image.open(image).save(tiff)
    for path, kind in ((jpeg, "jpeg"), (tiff, "png")):
        bench.judge().judge(case, path)
        url = bench.endpoint.bodies[-1]["messages"][0]["content"][1]["image_url"]["url"]
        assert url.startswith(f"data:image/{kind};base64,")


# -- answers of no use --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("I would say seven.", "it has no JSON object"),
        ('{"scores": {"success": 7}}', "the score 'restraint' is missing"),
        ('{"scores": {"success": 11, "restraint": 1}}', "the score 'success' is 11 and not from 0 to 10"),
        ('{"scores": {"success": "7", "restraint": 1}}', "the score 'success' is \"7\" and no whole number"),
        ('{"scores": {"success": true, "restraint": 1}}', "is true and no whole number"),
        ('{"scores": {"success": NaN, "restraint": 1}}', "is NaN and no whole number"),
        ('{"scores": {"success": 7.5, "restraint": 1}}', "is 7.5 and no whole number"),
        ('{"scores": [7, 7]}', "'scores' is not a JSON object"),
        ("", "it has no JSON object"),
    ],
)
def test_a_useless_answer_is_asked_about_again(bench: Bench, text: str, fault: str) -> None:
    case, image = bench.one()
    bench.endpoint.script = [serve.says(text)]
    assert bench.judge().judge(case, image)["overall@seer"] == pytest.approx(7)
    again = bench.endpoint.bodies[1]["messages"][0]["content"][0]["text"]
    assert "An earlier answer could not be used: " in again and fault in again
    assert len(bench.endpoint.bodies) == 3


def test_asking_again_ends_and_is_never_paid_for_anew(bench: Bench) -> None:
    case, image = bench.one()
    bench.endpoint.default = serve.says("Seven!")
    for _ in range(2):
        with pytest.raises(Useless, match=r"case '0' cannot be used, 3 of them; the last: it has no JSON"):
            bench.judge().judge(case, image)
    assert len(bench.endpoint.bodies) == 3
    bench.endpoint.default = serve.good
    assert bench.judge(asks=4).judge(case, image)["overall@seer"] == pytest.approx(7)
    assert len(bench.endpoint.bodies) == 5


def test_an_answer_that_was_cut_off_is_asked_for_again(bench: Bench) -> None:
    case, image = bench.one()
    whole = '{"scores": {"success": 7, "restraint": 1}}'
    bench.endpoint.script = [serve.says(whole, finish="length")]
    assert bench.judge().judge(case, image)["semantic_consistency@seer"] == 7
    assert "cut off" in bench.endpoint.bodies[1]["messages"][0]["content"][0]["text"]


@pytest.mark.parametrize(
    "answer",
    [
        serve.says(None, refusal="I will not look at this."),
        serve.says(None, finish="content_filter"),
        serve.says("I'm sorry, but I can't assist with that request."),
    ],
)
def test_a_refusal_is_final(bench: Bench, answer: serve.Act) -> None:
    case, image = bench.one()
    bench.endpoint.script = [answer]
    for _ in range(2):
        with pytest.raises(Refused, match="the judge refused: "):
            bench.judge().judge(case, image)
    assert len(bench.endpoint.bodies) == 1


def test_a_word_of_regret_beside_scores_is_no_refusal(bench: Bench) -> None:
    case, image = bench.one()
    text = 'I\'m sorry to say: {"scores": {"success": 0, "restraint": 10}}'
    bench.endpoint.script = [serve.says(text)]
    assert bench.judge().judge(case, image)["semantic_consistency@seer"] == 0


# -- money --------------------------------------------------------------------------------------------------


def test_the_bill_counts_what_was_paid_and_what_was_remembered(bench: Bench) -> None:
    case, image = bench.one()
    uncounted = serve.says('{"scores": {"success": 7, "restraint": 7}}')

    def without_usage(handler: serve.Handler, body: dict[str, Any]) -> None:
        content = serve.scores(body)
        del content["usage"]
        handler.send(200, json.dumps(content).encode())

    bench.endpoint.script = [uncounted, without_usage]
    judge = bench.judge(prices=Prices(prompt=2.0, completion=10.0))
    judge.judge(case, image)
    judge.judge(case, image)
    spent = judge.spent()
    assert (spent.answers, spent.uncounted, spent.remembered) == (2, 1, 2)
    assert spent.usage == Usage(1000, 50) and spent.cost == pytest.approx(0.0025)
    assert bench.judge().spent().cost is None


def test_a_dry_run_asks_nothing_and_knows_the_cache(bench: Bench) -> None:
    images = bench.images(3)
    judge = bench.judge(prices=Prices(prompt=1.0, completion=1.0))
    pairs = [(case, image) for case, _, image in images] + [(caption("t"), images[0][2])]
    fresh = judge.estimate(pairs)
    assert (fresh.images, fresh.answers, fresh.remembered, fresh.problems) == (3, 6, 0, 0)
    assert fresh.usage.prompt_tokens > 3 * 3 * 2 * 3, (
        "48 x 64 pixels are 2 x 3 patches, three times per image"
    )
    assert fresh.cost == pytest.approx((fresh.usage.prompt_tokens + fresh.usage.completion_tokens) / 1e6)
    assert not bench.endpoint.bodies
    judge.judge(images[0][0], images[0][2])
    images[1][2].unlink()
    images[2][2].write_bytes(b"broken")
    later = judge.estimate(pairs)
    assert (later.answers, later.remembered, later.problems) == (2, 2, 1), "an image not made yet counts"
    assert later.usage == Usage(2000, 100), "as the cached answers had it"
    assert len(bench.endpoint.bodies) == 2


def test_another_image_prompt_model_or_rubric_is_another_answer(bench: Bench) -> None:
    case, image = bench.one()
    bench.judge().judge(case, image)
    paid = len(bench.endpoint.bodies)
    bench.judge().judge(case, image)
    assert len(bench.endpoint.bodies) == paid
    bench.judge().judge(replace(case, prompt="make it blue"), image)
    assert len(bench.endpoint.bodies) == paid + 1, "its quality is judged without the instruction"
    bench.judge(client={"options": {"temperature": 1}}).judge(case, image)
    assert len(bench.endpoint.bodies) == paid + 3
    save(image, noise(99))
    bench.judge().judge(case, image)
    assert len(bench.endpoint.bodies) == paid + 5


CHILD = """
import sys
from pathlib import Path
from danceopd.evaluation.judges import AnswerCache, VisionClient, VisionJudge, judge_images, load_rubric
from tests.evaluation.examples import edit
url, folder = sys.argv[1], Path(sys.argv[2])
judge = VisionJudge(
    VisionClient(url, "seer", key_variable="JUDGE_KEY"), load_rubric("gedit"), AnswerCache(folder / "cache")
)
images = [(edit(str(index), folder / "source.png"), 0, folder / f"{index}.png") for index in range(4)]
for rows in judge_images(judge, images, concurrency=1):
    pass
"""


def test_nothing_is_paid_for_twice_after_a_kill(bench: Bench) -> None:
    images = bench.images(4)
    endpoint = bench.endpoint
    endpoint.script = [serve.good] * 5
    endpoint.default = serve.silent
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, endpoint.url, str(bench.folder)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
    )
    try:
        while len(endpoint.bodies) < 6:
            assert child.poll() is None, child.communicate()[1].decode()
            time.sleep(0.02)
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    assert len(endpoint.answered) == 5
    endpoint.default = serve.good
    rows = list(judge_images(bench.judge(), images))
    assert all(values(of_one)["overall@seer"] == pytest.approx(7) for of_one in rows)
    assert len(endpoint.answered) == len(set(endpoint.answered)) == 8


def test_a_cache_file_that_somebody_changed_is_named(bench: Bench) -> None:
    case, image = bench.one()
    bench.judge().judge(case, image)
    for path in (bench.folder / "cache").rglob("*.json"):
        path.write_text("{")
    with pytest.raises(JudgeError, match=r"the cached answer '.*0.json' cannot be read .*: delete it"):
        bench.judge().judge(case, image)


def test_a_cache_that_cannot_be_written_is_told_before_anything_is_paid(bench: Bench) -> None:
    case, image = bench.one()
    (bench.folder / "cache").write_text("a file")
    with pytest.raises(OSError, match="cannot write to the judge cache"):
        bench.judge().judge(case, image)
    assert not bench.endpoint.bodies


@pytest.mark.parametrize("name", ["gedit", "imgedit"])
def test_a_rubrics_last_measure_is_the_one_that_reports_lead_with(name: str) -> None:
    *parts, whole = load_rubric(name).measures
    assert whole.name in ("overall", "imgedit")
    assert all(part.name not in ("overall", "imgedit") for part in parts)
