"""Requests to an endpoint that speaks OpenAI's chat completions and sees images."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from threading import Event, Lock, Thread
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from danceopd.evaluation.base import JudgeError
from danceopd.evaluation.extra import needed_for
from danceopd.evaluation.judges.cache import Reply
from danceopd.evaluation.judges.cost import Usage
from danceopd.evaluation.judges.limits import LONGEST_ASKED, Pace, asked_to_wait, backoff

_T = TypeVar("_T")

_LOG = logging.getLogger(__name__)
_PATH: Final = "/chat/completions"
_LARGEST: Final = 4 << 20  # bytes of an answer
_AGAIN: Final = (408, 409, 425, 429)  # and all of 500 and above
_OF_THE_ENDPOINT: Final = (401, 402, 403, 404, 405)  # no other image would fare better
_IN_A_ROW: Final = 5  # images without an answer that show that the endpoint is down
_TOLD: Final = 200  # letters of what an endpoint says


class NoAnswer(JudgeError):
    """The endpoint gave no answer for an image, and may give one another time."""


class JudgeUnavailable(OSError):
    """The endpoint answers nobody: a wrong key, address or model, no credit, or it is down.

    What was judged is in the cache, so the same call continues once the endpoint is there.
    """


class JudgeSilent(JudgeUnavailable):
    """The endpoint gave no answer for several images in a row: it is down, or takes none of these."""


class _Failed(Exception):
    """An attempt that may be made again."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class VisionClient:
    """Asks an endpoint, patiently; threads may share one.

    Args:
        url: up to and with the version, such as ``https://api.openai.com/v1``.
        model: as the endpoint names it.
        key_variable: names the environment variable that holds the key; None for an endpoint without keys.
        timeout: seconds for one attempt, from connecting to the last byte.
        attempts: in all, for one request.
        requests_per_minute: at most; None does not hold anything back.
        options: further fields of the request.
        sleep: waits for seconds; by default until `stop` too.

    Raises:
        ValueError: the address cannot be used, or the variable holds no key.
        ImportError: requests is not installed.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key_variable: str | None = "OPENAI_API_KEY",
        timeout: float = 120.0,
        attempts: int = 6,
        requests_per_minute: float | None = None,
        options: Mapping[str, Any] | None = None,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        with needed_for("judging"):
            import requests
        self._requests = requests
        self._url = _endpoint(url)
        self.model = model
        self.options = {"temperature": 0, "max_tokens": 1024} if options is None else dict(options)
        if attempts < 1 or not timeout > 0:
            raise ValueError(
                f"attempts must be at least 1 and timeout above 0 but they are {attempts} and {timeout}."
            )
        self._key_variable = key_variable
        self._key()  # told now rather than after the images were made
        self._timeout = timeout
        self._attempts = attempts
        self._stopped = Event()
        self._sleep = sleep or self._stopped.wait
        self._pace = Pace(requests_per_minute, self._sleep)
        self._lock = Lock()
        self._failed = 0

    def stop(self) -> None:
        """Let nobody wait or ask again until `resume`; an answer that is on its way is still awaited."""
        self._stopped.set()

    def resume(self) -> None:
        """Ask again."""
        self._stopped.clear()

    def ask(self, content: Sequence[Mapping[str, Any]]) -> Reply:
        """The answer to a message of texts and images.

        Args:
            content: parts in OpenAI's form.

        Raises:
            NoAnswer: all attempts failed, or the endpoint takes no such request.
            JudgeUnavailable: the endpoint answers nobody.
        """
        message = {"role": "user", "content": list(content)}
        body = json.dumps({"model": self.model, "messages": [message], **self.options}).encode()
        with self._requests.Session() as session:
            for attempt in range(1, self._attempts + 1):
                self._pace.wait()
                if self._stopped.is_set():
                    raise NoAnswer("the judge was not asked any more: the evaluation was stopped.")
                try:
                    reply = self._attempt(session, body)
                except _Failed as failure:
                    if failure.wait > LONGEST_ASKED:
                        raise JudgeUnavailable(
                            f"the judge at {self._url} asks to wait {failure.wait:.0f} s ({failure}): "
                            "continue later; what was judged is kept."
                        ) from None
                    if attempt == self._attempts:
                        self._count_failure(str(failure))
                        raise NoAnswer(
                            f"the judge gave no answer in {attempt} attempts; the last said: {failure}."
                        ) from None
                    if failure.wait:
                        self._pace.hold(failure.wait)
                    seconds = failure.wait + backoff(attempt)
                    _LOG.info("the judge gave no answer (%s): asking again in %.1f s", failure, seconds)
                    self._sleep(seconds)
                else:
                    with self._lock:
                        self._failed = 0
                    return reply
        raise AssertionError("every attempt returns or raises")

    def _attempt(self, session: Any, body: bytes) -> Reply:
        errors = self._requests.exceptions
        try:
            status, header, content = _within(self._timeout, lambda: self._post(session, body))
        except (errors.Timeout, TimeoutError):
            raise _Failed(f"no answer within {self._timeout:g} s") from None
        except (errors.RequestException, OSError) as error:
            raise _Failed(self._safe(f"{type(error).__name__}: {error}")) from None
        if status == 200:
            try:
                return self._reply(json.loads(content))
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
                told = self._safe(content.decode(errors="replace"))
                raise _Failed(f"the endpoint's answer is no chat completion: {told!r}") from None
        told = f"HTTP {status}: {self._error(content)}"
        if status in _AGAIN or status >= 500:
            raise _Failed(told, asked_to_wait(header))
        if status in _OF_THE_ENDPOINT or 300 <= status < 400:
            raise JudgeUnavailable(
                f"the judge at {self._url} takes no requests ({told}): check key and address."
            )
        raise NoAnswer(f"the judge takes no such request ({told}).")

    def _post(self, session: Any, body: bytes) -> tuple[int, str | None, bytes]:
        """Status, the header Retry-After, and content."""
        deadline = time.monotonic() + self._timeout
        with session.post(
            self._url,
            data=body,
            headers={"Content-Type": "application/json"},
            auth=self._authorise,  # a header alone would lose against a .netrc
            timeout=self._timeout,
            allow_redirects=False,
            stream=True,
        ) as response:
            content = self._content(response, deadline)
            return response.status_code, response.headers.get("Retry-After"), content

    @staticmethod
    def _content(response: Any, deadline: float) -> bytes:
        content = bytearray()
        for block in response.iter_content(1):  # larger blocks are waited for, however slowly they fill
            content += block
            if time.monotonic() > deadline:
                raise _Failed("the answer came too slowly")
            if len(content) > _LARGEST:
                raise _Failed("the answer has no end")
        return bytes(content)

    def _reply(self, given: Any) -> Reply:
        choice, counted = given["choices"][0], given.get("usage")
        message = choice["message"]
        text, refusal = message.get("content") or "", message.get("refusal") or None
        if not isinstance(text, str) or not isinstance(refusal, str | None):
            raise ValueError("content is no text")
        hide = self._hidden
        finish = str(choice.get("finish_reason"))
        return Reply(hide(text), hide(finish), refusal and hide(refusal), _counted(counted))

    def _error(self, content: bytes) -> str:
        text = content.decode(errors="replace")
        try:
            error = json.loads(text)["error"]
            text = str(error["message"] if isinstance(error, dict) else error)
        except (ValueError, LookupError, TypeError, RecursionError):
            pass
        return self._safe(text)

    def _count_failure(self, reason: str) -> None:
        with self._lock:
            self._failed += 1
            if self._failed >= _IN_A_ROW:
                self._failed = 0
                raise JudgeSilent(
                    f"the judge at {self._url} gave no answer for {_IN_A_ROW} images in a row ({reason}): "
                    "continue later; what was judged is kept."
                ) from None

    def _key(self) -> str:
        if self._key_variable is None:
            return ""
        key = os.environ.get(self._key_variable, "").strip()
        if not key:
            raise ValueError(
                f"the judge's key is read from the environment variable {self._key_variable}, which is "
                "not set: export it, or name another variable."
            )
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise ValueError(
                f"the environment variable {self._key_variable} holds no key: it has letters that none has."
            )
        return key

    def _authorise(self, request: Any) -> Any:
        if key := self._key():
            request.headers["Authorization"] = f"Bearer {key}"
        return request

    def _hidden(self, text: str) -> str:
        """The text without the key, which endpoints like to quote."""
        key = self._key()
        text = text.encode(errors="replace").decode()  # half a surrogate pair fits into no file
        return text.replace(key, "***") if key else text

    def _safe(self, text: str) -> str:
        """A short piece of what somebody else said, fit to be told."""
        return " ".join(self._hidden(text).split())[:_TOLD].rstrip(".")


def _within(seconds: float, ask: Callable[[], _T]) -> _T:
    """What a call gives; one that takes longer is left to a thread that keeps nobody waiting.

    A library's time-out is for a single read: an address whose name is never found, or headers that come a
    letter at a time, take as long as they like.

    Raises:
        TimeoutError: it takes longer.
    """
    outcome: Future[_T] = Future()

    def work() -> None:
        try:
            outcome.set_result(ask())
        except BaseException as error:
            outcome.set_exception(error)

    Thread(target=work, name="judge-request", daemon=True).start()
    if not wait([outcome], seconds).done:
        raise TimeoutError
    return outcome.result()


def _counted(given: Any) -> Usage | None:
    """The tokens that an endpoint says it has counted; an answer without them is an answer."""
    try:
        return Usage(int(given["prompt_tokens"]), int(given["completion_tokens"]))
    except (LookupError, TypeError, ValueError):
        return None


def _endpoint(url: str) -> str:
    if "@" in url:
        raise ValueError("the judge's address must hold no user or key: put the key into the environment.")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(
            f"judge address '{url[:_TOLD]}' is none: give one such as https://api.openai.com/v1."
        )
    if parts.query or parts.fragment:
        raise ValueError(
            f"the judge address at {parts.hostname} must hold no key or query: put the key into the "
            "environment."
        )
    path = parts.path.rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path if path.endswith(_PATH) else path + _PATH}"
