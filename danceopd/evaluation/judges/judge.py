"""A judge: an endpoint, a rubric, and a cache of what was answered."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from PIL import Image
from typing_extensions import override

from danceopd.evaluation.base import Case, Judge, JudgeError, MetricInfo
from danceopd.evaluation.judges.cache import AnswerCache, Reply, key_of
from danceopd.evaluation.judges.client import VisionClient
from danceopd.evaluation.judges.cost import Bill, Estimate, Prices, Spent, Usage, usual_usage
from danceopd.evaluation.judges.rubric import Question, Rubric

BY: Final = "@"
"""Stands between a measure and the judge whose it is, as in ``overall@gpt-4.1``."""

_KINDS: Final = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
# What a model says that was trained to refuse, where its endpoint does not tell so itself.
_REFUSING: Final = re.compile(
    r"\b(can't|can’t|cannot|can not|unable to|won't|won’t|not able to)\s+"
    r"(assist|help|comply|continue|evaluate|rate|score|judge|process|provide|fulfill|engage)\b"
    r"|\bI(’|')m sorry\b",
    re.IGNORECASE,
)


class Refused(JudgeError):
    """The judge will not judge this image; it is not asked again."""


class Useless(JudgeError):
    """No answer held the scores that were asked for; no more are paid for."""


@dataclass(frozen=True)
class _Picture:
    """An image as it is sent."""

    kind: str
    content: bytes
    size: tuple[int, int]

    def digest(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    def part(self) -> dict[str, Any]:
        data = base64.b64encode(self.content).decode()
        return {"type": "image_url", "image_url": {"url": f"data:{self.kind};base64,{data}"}}


@dataclass(frozen=True)
class _Request:
    """One question about one image."""

    question: Question
    text: str
    pictures: tuple[_Picture, ...]
    content: Mapping[str, Any]

    def key(self) -> str:
        return key_of(self.content)

    def parts(self, fault: str | None) -> list[dict[str, Any]]:
        text = self.text
        if fault:
            text += (
                f"\n\nAn earlier answer could not be used: {fault}. Answer in the form that was asked for."
            )
        return [{"type": "text", "text": text}, *(picture.part() for picture in self.pictures)]


class VisionJudge(Judge):
    """Scores edited images by a rubric. Threads may share one.

    An answer is kept in the cache before it is read, under the SHA-256 of the images' bytes, the question,
    the prompt, the model and its options. Whatever the answer was, it is never paid for again: one that
    cannot be used counts as one of ``asks`` for ever.

    Args:
        client: the endpoint.
        rubric: what is asked.
        cache: of answers; judges may share one.
        asks: how often a question is put, at most, until an answer can be used.
        prices: for the bill and the estimate.
    """

    def __init__(
        self,
        client: VisionClient,
        rubric: Rubric,
        cache: AnswerCache,
        *,
        asks: int = 3,
        prices: Prices | None = None,
    ) -> None:
        if asks < 1:
            raise ValueError(f"asks must be at least 1 but is {asks}.")
        self._client = client
        self._rubric = rubric
        self._cache = cache
        self._asks = asks
        self._bill = Bill(prices)

    @property
    @override
    def name(self) -> str:
        return f"{self._rubric.name} by {self._client.model}"

    @property
    @override
    def measures(self) -> Sequence[MetricInfo]:
        model = self._client.model
        return tuple(
            MetricInfo(f"{measure.name}{BY}{model}", True, f"{measure.title} ({model})")
            for measure in self._rubric.measures
        )

    @property
    @override
    def by(self) -> str:
        digest = hashlib.sha256(repr(self._rubric).encode()).hexdigest()
        return f"rubric {self._rubric.name} sha256 {digest}"

    def spent(self) -> Spent:
        """What was paid for and what was remembered since this judge was made."""
        return self._bill.spent()

    def stop(self) -> None:
        """Ask nothing more until `resume`, from whatever thread; `judge` then raises JudgeError."""
        self._client.stop()

    def resume(self) -> None:
        """Ask again."""
        self._client.resume()

    @override
    def applies(self, case: Case) -> bool:
        return bool(self._rubric.questions_about(case))

    @override
    def judge(self, case: Case, image: Path) -> Mapping[str, float]:
        scores: dict[str, float] = {}
        for request in self._requests(case, {"source": _read(case.sources[0]), "edited": _read(image)}):
            scores |= self._scores(request, case)
        model = self._client.model
        return {f"{name}{BY}{model}": value for name, value in self._rubric.combine(scores).items()}

    def estimate(self, images: Iterable[tuple[Case, Path]]) -> Estimate:
        """What judging these images would take; sends nothing.

        An image that was not made yet counts as one of the size of its source.
        """
        number = problems = remembered = 0
        known: dict[str, list[Usage]] = {}
        open_requests: list[tuple[str, Usage]] = []
        for case, image in images:
            if not self.applies(case):
                continue
            number += 1
            try:
                source = _read(case.sources[0])
                pictures = {"source": source, "edited": _read(image) if image.exists() else source}
                for request in self._requests(case, pictures):
                    replies = self._cache.replies(request.key()) if image.exists() else []
                    name = request.question.name
                    known.setdefault(name, []).extend(reply.usage for reply in replies if reply.usage)
                    if self._is_settled(request, replies):
                        remembered += 1
                    else:
                        usual = usual_usage(request.text, [picture.size for picture in request.pictures])
                        open_requests.append((name, usual))
            except JudgeError:
                problems += 1
        usage = Usage(0, 0)
        for name, usual in open_requests:
            seen = known.get(name)
            usage += _mean(seen) if seen else usual
        prices = self._bill.prices
        cost = prices.of(usage) if prices else None
        return Estimate(number, len(open_requests), remembered, usage, cost, problems)

    def _requests(self, case: Case, pictures: Mapping[str, _Picture]) -> Iterator[_Request]:
        for question in self._rubric.questions_about(case):
            shown = tuple(pictures[name] for name in question.shows)
            text = self._rubric.prompt(question, case.prompt)
            content = {
                "model": self._client.model,
                "options": self._client.options,
                "rubric": self._rubric.name,
                "question": question.name,
                "scale": list(self._rubric.scale),
                "prompt": text,
                "images": [picture.digest() for picture in shown],
            }
            yield _Request(question, text, shown, content)

    def _scores(self, request: _Request, case: Case) -> dict[str, float]:
        key = request.key()
        with self._cache.alone(key):
            replies = self._cache.replies(key)
            fault: str | None = None
            for number in range(max(self._asks, len(replies))):
                if number < len(replies):
                    reply = replies[number]
                    self._bill.remembered()
                else:
                    reply = self._client.ask(request.parts(fault))
                    self._cache.add(key, number, request.content, reply)
                    self._bill.paid(reply.usage)
                scores, fault = self._read(request, reply)
                if scores:
                    return scores
        raise Useless(
            f"the judge's answers about case '{case.key}' cannot be used, {max(self._asks, len(replies))} of "
            f"them; the last: {fault}."
        )

    def _read(self, request: _Request, reply: Reply) -> tuple[dict[str, float], str | None]:
        """Scores, or none and the fault.

        Raises:
            Refused: the judge would not answer.
        """
        if reply.refusal or reply.finish == "content_filter":
            raise Refused(f"the judge refused: {_short(reply.refusal or 'its content filter stopped it')}.")
        if reply.finish == "length":
            return {}, "it was cut off for its length"
        try:
            return self._rubric.read(request.question, reply.text), None
        except ValueError as error:
            if "{" not in reply.text and _REFUSING.search(reply.text):
                raise Refused(f"the judge refused: {_short(reply.text)}.") from None
            return {}, str(error)

    def _is_settled(self, request: _Request, replies: Sequence[Reply]) -> bool:
        """Whether the cached answers say all that there is to know."""
        try:
            read = [self._read(request, reply)[0] for reply in replies]
        except Refused:
            return True
        return any(read) or len(replies) >= self._asks


def _read(path: Path) -> _Picture:
    """An image as it is on disk, or as PNG where endpoints do not know its format."""
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            kind = image.format or ""
            if kind not in _KINDS:
                buffer = io.BytesIO()
                image.convert("RGB").save(buffer, format="PNG")
                kind, content = "PNG", buffer.getvalue()
            return _Picture(_KINDS[kind], content, image.size)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise JudgeError(
            f"image '{path}' cannot be read ({reason}), so it was not judged: make or copy it anew."
        ) from None


def _mean(usages: Sequence[Usage]) -> Usage:
    total = sum(usages, Usage(0, 0))
    return Usage(round(total.prompt_tokens / len(usages)), round(total.completion_tokens / len(usages)))


def _short(text: str) -> str:
    return " ".join(text.split())[:200].rstrip(".")
