"""Models load without bars where nobody watches, and leave the libraries' switches as they were."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModelWithProjection
from transformers.utils import logging

from danceopd.families.bars import hidden_bars
from danceopd.families.checkpoint import _load


@pytest.fixture
def encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)
    config = CLIPTextConfig(
        bos_token_id=0,
        eos_token_id=1,
        vocab_size=16,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
    )
    CLIPTextModelWithProjection(config).save_pretrained(tmp_path)
    return tmp_path


def test_bars_are_for_terminals(
    encoder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def told() -> str:
        _load(CLIPTextModelWithProjection, encoder, torch.float32)
        assert logging.is_progress_bar_enabled()
        return capsys.readouterr().err

    logging.enable_progress_bar()
    capsys.readouterr()
    assert told() == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert "Loading weights" in told()
    with hidden_bars():
        assert told() == ""


def test_what_a_program_has_turned_off_stays_off(encoder: Path) -> None:
    logging.disable_progress_bar()
    try:
        _load(CLIPTextModelWithProjection, encoder, torch.float32)
        assert not logging.is_progress_bar_enabled()
    finally:
        logging.enable_progress_bar()
