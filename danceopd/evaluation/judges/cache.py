"""Answers that were paid for, on disk by the content of their request."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from danceopd.evaluation.base import JudgeError
from danceopd.evaluation.extra import needed_for
from danceopd.evaluation.judges.cost import Usage
from danceopd.files import write_whole


@dataclass(frozen=True)
class Reply:
    """What an endpoint answered.

    Attributes:
        text: of the answer; empty where there is none.
        finish: why it ended, in the endpoint's words.
        refusal: what the endpoint says of why it refused; None where it did not.
        usage: tokens; None where the endpoint does not count them.
    """

    text: str
    finish: str
    refusal: str | None = None
    usage: Usage | None = None


def key_of(request: Mapping[str, Any]) -> str:
    """SHA-256 of a request as canonical JSON, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


class AnswerCache:
    """A folder with a folder per request, and in it a file per answer, in the order in which they came.

    An answer is on disk before anybody looks at it, so whoever is killed then finds it there. Requests of one
    content wait for each other, in one process and in several, so that one alone is paid for.

    Args:
        folder: is made when the first answer comes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def replies(self, key: str) -> list[Reply]:
        """The answers to a request, without waiting for one that is on its way.

        Raises:
            JudgeError: a file was changed by something else.
        """
        replies: list[Reply] = []
        while (path := self._file(key, len(replies))).exists():
            replies.append(_read(path))
        return replies

    @contextmanager
    def alone(self, key: str) -> Iterator[None]:
        """Keep others from the answers to a request meanwhile.

        Raises:
            ImportError: filelock is not installed.
            OSError: the folder cannot be written.
        """
        with needed_for("judging"):
            from filelock import FileLock
        folder = self._file(key, 0).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                f"cannot write to the judge cache '{self._folder}': {error.strerror}; choose another folder."
            ) from error
        with FileLock(folder / "lock"):
            yield

    def add(self, key: str, number: int, request: Mapping[str, Any], reply: Reply) -> None:
        """Keep answer ``number`` to a request, whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        content = {"request": dict(request), "reply": asdict(reply)}
        write_whole(self._file(key, number), json.dumps(content, indent=1, ensure_ascii=False).encode())

    def _file(self, key: str, number: int) -> Path:
        return self._folder / key[:2] / key / f"{number}.json"


def _read(path: Path) -> Reply:
    try:
        given = json.loads(path.read_bytes())["reply"]
        usage = given["usage"]
        return Reply(
            str(given["text"]), str(given["finish"]), given["refusal"], Usage(**usage) if usage else None
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = type(error).__name__
        place = "/".join(path.parts[-3:])  # where the cache lies is nobody's business in a report
        raise JudgeError(f"the cached answer '{place}' cannot be read ({reason}): delete it.") from None
