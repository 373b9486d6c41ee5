"""Changes to a checkpoint's state.json that leave it whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import danceopd.training.checkpoint as checkpoint_module


def edit_state(file: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """As if the checkpoint had been written so."""
    state = json.loads(file.read_text())
    del state[checkpoint_module._OWN]
    edit(state)
    state[checkpoint_module._OWN] = checkpoint_module._digest_of(state)
    file.write_text(json.dumps(state))
