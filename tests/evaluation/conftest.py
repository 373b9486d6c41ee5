"""Fixtures of judging."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.evaluation.endpoint import KEY, Endpoint, serving
from tests.evaluation.judging import Bench


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with serving() as server:
        yield server


@pytest.fixture
def bench(endpoint: Endpoint, tmp_path: Path) -> Bench:
    return Bench(endpoint, tmp_path)
