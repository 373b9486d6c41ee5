from __future__ import annotations

from typing import Any

import pytest
import torch

from danceopd.families import load_family, usable_device


def test_devices_are_known_by_name() -> None:
    assert usable_device("cpu") == usable_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gpu", "device 'gpu' is unknown: use cpu, cuda or cuda:N"),
        ("meta", "device 'meta' is not supported: use cpu, cuda or cuda:N"),
        ("cuda", r"device 'cuda' is not here: torch sees 0 CUDA device\(s\); use cpu"),
        ("cuda:9", "device 'cuda:9' is not here"),
    ],
)
def test_a_device_that_is_not_here_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match=words):
        load_family("shapesworld", device=name)


def test_an_unknown_family_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="family 'sd3' is neither shapesworld, nor a folder that is here"):
        load_family("sd3")


@pytest.mark.parametrize("name", ["bfloat16", torch.bfloat16])
def test_a_dtype_may_be_a_text_as_in_a_config(name: Any) -> None:
    family = load_family("shapesworld", dtype=name)
    assert getattr(family, "dtype", None) == torch.bfloat16


@pytest.mark.parametrize("name", ["float16", torch.float16, "half", None, 16])
def test_another_dtype_is_one_sentence(name: Any) -> None:
    with pytest.raises(ValueError, match=r"^dtype .* is not supported: use 'float32' or 'bf"):
        load_family("shapesworld", dtype=name)
