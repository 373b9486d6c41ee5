"""Judges at endpoints in trouble, and the key, which is never told."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from danceopd.evaluation import Case
from danceopd.evaluation.judges import (
    AnswerCache,
    JudgeUnavailable,
    NoAnswer,
    VisionClient,
    VisionJudge,
    judge_images,
    limits,
    load_rubric,
)
from tests.evaluation import endpoint as serve
from tests.evaluation.endpoint import KEY
from tests.evaluation.examples import caption, edit, noise, save
from tests.evaluation.judging import Bench, values

# -- endpoints in trouble -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble",
    [
        serve.status(500),
        serve.status(429),
        serve.status(408),
        serve.raw(b"<html>gateway</html>"),
        serve.raw(b'{"choices": []}'),
        serve.raw(b'{"choices": [{"message": {"content": 7}}]}'),
        serve.raw(b""),
        serve.truncated,
        serve.dead,
    ],
)
def test_trouble_passes_and_the_answer_comes(bench: Bench, trouble: serve.Act) -> None:
    case, image = bench.one()
    bench.endpoint.script = [trouble, trouble]
    assert bench.judge().judge(case, image)["overall@seer"] == pytest.approx(7)
    assert len(bench.endpoint.bodies) == 4 and len(bench.endpoint.answered) == 2
    first, second = bench.waits
    assert 0.5 <= first <= 1 <= second <= 2, "twice as long, with a part drawn"


@pytest.mark.parametrize("trouble", [serve.silent, serve.dripping])
def test_a_silent_or_dripping_endpoint_times_out(bench: Bench, trouble: serve.Act) -> None:
    case, image = bench.one()
    bench.endpoint.script = [trouble]
    assert bench.judge(client={"timeout": 0.4}).judge(case, image)["overall@seer"] == pytest.approx(7)


def test_headers_count_for_the_time_out(bench: Bench) -> None:
    case, image = bench.one()
    bench.endpoint.script = [serve.dripping_headers]
    judge = bench.judge(client={"timeout": 0.3, "attempts": 1})
    with pytest.raises(NoAnswer, match=r"no answer within 0.3 s"):
        judge.judge(case, image)


@pytest.mark.parametrize("header", ["300", "date", "soon"])
def test_retry_after_is_honoured(bench: Bench, header: str) -> None:
    case, image = bench.one()
    given = formatdate(time.time() + 300, usegmt=True) if header == "date" else header
    bench.endpoint.script = [serve.status(429, Retry_After=given)]
    bench.judge().judge(case, image)
    assert (100 < bench.waits[0] < 302) if header != "soon" else (0 < bench.waits[0] <= 1)


def test_an_endpoint_that_asks_to_wait_for_long_ends_the_run(bench: Bench) -> None:
    case, image = bench.one()
    bench.endpoint.script = [serve.status(429, Retry_After="3600")]
    with pytest.raises(JudgeUnavailable, match=r"asks to wait 3600 s .HTTP 429: no.: continue later"):
        bench.judge().judge(case, image)
    assert not bench.waits


def test_attempts_end_and_the_image_may_be_judged_another_time(bench: Bench) -> None:
    case, image = bench.one()
    bench.endpoint.script = [serve.status(503, "overloaded")] * 4
    judge = bench.judge()
    with pytest.raises(NoAnswer, match="no answer in 4 attempts; the last said: HTTP 503: overloaded"):
        judge.judge(case, image)
    assert judge.judge(case, image)["overall@seer"] == pytest.approx(7)


def test_an_image_that_the_endpoint_does_not_take_is_its_own_problem(bench: Bench) -> None:
    case, image = bench.one()
    bench.endpoint.script = [serve.status(400, "image too large")]
    with pytest.raises(NoAnswer, match=r"takes no such request .HTTP 400: image too large"):
        bench.judge().judge(case, image)
    assert len(bench.endpoint.bodies) == 1


@pytest.mark.parametrize("code", [401, 403, 404, 302])
def test_a_wrong_key_address_or_model_ends_the_run(bench: Bench, code: int) -> None:
    bench.endpoint.default = serve.status(code, "no such thing", Location="http://127.0.0.1:9/")
    with pytest.raises(JudgeUnavailable, match=rf"takes no requests .HTTP {code}: no such thing"):
        list(judge_images(bench.judge(), bench.images(5), concurrency=1))
    assert len(bench.endpoint.bodies) <= 3, "images after the first are not begun, or hardly"


def test_an_endpoint_that_answers_nobody_ends_the_run(bench: Bench) -> None:
    bench.endpoint.default = serve.dead
    judge = bench.judge(client={"attempts": 1})
    with pytest.raises(JudgeUnavailable, match="no answer for 5 images in a row"):
        list(judge_images(judge, bench.images(8), concurrency=1))


def test_one_bad_image_among_many_is_a_row_with_a_problem(bench: Bench) -> None:
    images = bench.images(4)
    images[1][2].write_bytes(b"no image")
    images[2][2].unlink()
    bench.endpoint.script = [serve.says("I cannot help with that.")]
    rows = list(judge_images(bench.judge(), [*images, (caption("t"), 0, images[0][2])], concurrency=1))
    assert [[row.case for row in of_one] for of_one in rows] == [[str(index)] * 3 for index in range(4)]
    problems = [of_one[0].problem for of_one in rows]
    assert "refused" in str(problems[0])
    assert "1.png' cannot be read" in str(problems[1]) and "copy it anew" in str(problems[1])
    assert "No such file" in str(problems[2])
    assert problems[3] is None and values(rows[3])["overall@seer"] == pytest.approx(7)
    assert all(row.value is None for row in rows[1])


def test_many_at_once_come_in_order_and_equal_ones_are_paid_for_once(bench: Bench) -> None:
    source = save(bench.folder / "source.png", noise(0))
    same = save(bench.folder / "same.png", noise(1))
    images = [(edit(str(index), source), 0, same) for index in range(9)]
    rows = list(judge_images(bench.judge(), images, concurrency=4))
    assert [of_one[0].case for of_one in rows] == [str(index) for index in range(9)]
    assert len(bench.endpoint.bodies) == 2
    with pytest.raises(ValueError, match="concurrency must be at least 1"):
        list(judge_images(bench.judge(), images, concurrency=0))


def test_who_is_stopped_does_not_ask_again(bench: Bench) -> None:
    bench.endpoint.default = serve.status(503)
    judge = bench.judge(client={"sleep": None})

    def asked() -> Iterator[tuple[Case, int, Path]]:
        yield from bench.images(1)
        while not bench.endpoint.bodies:
            time.sleep(0.01)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(judge_images(judge, asked()))
    assert len(bench.endpoint.bodies) == 1
    bench.endpoint.default = serve.good
    assert judge.judge(*bench.one())


def test_requests_are_spaced(monkeypatch: pytest.MonkeyPatch) -> None:
    now, waits = [100.0], []
    monkeypatch.setattr(limits.time, "monotonic", lambda: now[0])
    pace = limits.Pace(30, waits.append)
    for _ in range(3):
        pace.wait()
    assert waits == [2.0, 4.0]
    now[0] = 200.0
    pace.wait()
    pace.hold(60)
    pace.wait()
    assert waits == [2.0, 4.0, 60.0]
    with pytest.raises(ValueError, match="requests_per_minute must be greater than 0 but is 0"):
        limits.Pace(0)


# -- the key ------------------------------------------------------------------------------------------------


def test_the_key_is_never_told(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    told = [f"Incorrect API key provided: {KEY}. See {KEY}"]
    images = bench.images(6)
    echo = json.dumps({"reasoning": KEY, "scores": {"success": 7, "restraint": 7}})
    bench.endpoint.script = [
        serve.says(echo, KEY),  # kept in the cache
        serve.status(500, told[0]),
        serve.raw(f"<html>{KEY}</html>".encode()),
        serve.good,
        serve.says(f"I cannot help {KEY}."),
        serve.status(400, told[0]),
        *[serve.status(429, told[0])] * 4,
        serve.says(None, refusal=f"No, {KEY}!"),
    ]
    judge = bench.judge()
    rows = list(judge_images(judge, images[:5], concurrency=1))
    bench.endpoint.default = serve.status(401, told[0])
    with pytest.raises(JudgeUnavailable) as caught:
        judge.judge(images[5][0], images[5][2])
    everything = [repr(rows), str(caught.value), repr(judge), repr(vars(judge)), caplog.text, bench.written()]
    everything += [repr(vars(judge._client)), str(caught.value.__cause__), str(caught.value.__context__)]
    assert KEY in str(bench.endpoint.authorisations)
    assert "***" in bench.written() and "***" in str(caught.value) and "***" in caplog.text
    assert sum(of_one[0].problem is not None for of_one in rows) >= 3
    assert not [text for text in everything if KEY in text]


def test_the_key_comes_from_the_variable_that_was_named(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, image = bench.one()
    monkeypatch.delenv("OTHER_KEY", raising=False)
    with pytest.raises(ValueError, match="environment variable OTHER_KEY, which is not set"):
        VisionClient(bench.endpoint.url, "seer", key_variable="OTHER_KEY")
    monkeypatch.setenv("OTHER_KEY", "two\nlines")
    with pytest.raises(ValueError, match="OTHER_KEY holds no key") as caught:
        VisionClient(bench.endpoint.url, "seer", key_variable="OTHER_KEY")
    assert "two" not in str(caught.value)
    client = VisionClient(bench.endpoint.url, "seer", key_variable=None)
    VisionJudge(client, load_rubric("gedit"), AnswerCache(bench.folder / "cache")).judge(case, image)
    assert bench.endpoint.authorisations == [None, None]


def test_a_netrc_does_not_replace_the_key(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = bench.folder / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    bench.judge().judge(*bench.one())
    assert bench.endpoint.authorisations == [f"Bearer {KEY}"] * 2


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("api.openai.com", "judge address 'api.openai.com' is none: give one such as"),
        ("ftp://host/v1", "is none"),
        ("http://[::1", "is none"),
        ("https://me:secret@host/v1", "the judge's address must hold no user or key"),
        ("htps://me:secret@host/v1", "the judge's address must hold no user or key"),
        ("https://host/v1?key=secret", "must hold no key or query"),
    ],
)
def test_an_address_of_no_use_is_refused(bench: Bench, url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        VisionClient(url, "seer", key_variable="JUDGE_KEY")
    assert "secret" not in str(caught.value)


def test_an_answer_without_counts_or_with_half_a_letter_is_an_answer(bench: Bench) -> None:
    client = VisionClient("https://host/v1", "seer", key_variable="JUDGE_KEY")
    choice = {"message": {"content": "fine \ud83d"}, "finish_reason": "stop"}
    for usage in ({"prompt_tokens": 5}, {"prompt_tokens": None, "completion_tokens": 1}, None):
        reply = client._reply({"choices": [choice], "usage": usage})
        assert reply.usage is None
        assert reply.text.encode() == b"fine ?"


def test_without_the_extra_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "requests", None)
    with pytest.raises(ImportError, match=r"judging needs the package requests, .*danceopd\[eval\]"):
        VisionClient("http://host/v1", "seer", key_variable=None)
