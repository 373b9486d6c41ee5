"""What every test shares: the hypothesis profile, and skipping what this machine cannot run."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings

settings.register_profile("danceopd", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("danceopd")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where torch sees no CUDA device."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)
