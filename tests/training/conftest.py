from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from danceopd.training import Callback, DanceOPDTrainer, Route, Teacher, TrainConfig
from tests.training.tiny import TinyFamily

torch.set_num_threads(1)  # nets this small only lose time to threads, most of all beside another busy process

TEACHERS = (Teacher("one", checkpoint="1"), Teacher("two", checkpoint="2", guidance_scale=2.0))
ROUTES = (Route("one", data="7"), Route("two", data="5", weight=2.0))


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., DanceOPDTrainer]:
    """A trainer of 12 small updates in ``tmp_path / "run"``; keywords replace its settings."""

    def make(
        *,
        teachers: Any = TEACHERS,
        routes: Any = ROUTES,
        dtype: torch.dtype = torch.float32,
        callbacks: Sequence[Callback] = (),
        **settings: Any,
    ) -> DanceOPDTrainer:
        defaults: dict[str, Any] = {
            "output_dir": tmp_path / "run",
            "max_steps": 12,
            "batch_size": 3,
            "gradient_accumulation_steps": 2,
            "num_rollout_steps": 4,
            "learning_rate": 1e-2,
            "save_every": 5,
            "progress": False,
        }
        config = TrainConfig(**(defaults | settings))
        return DanceOPDTrainer(
            family=TinyFamily(dtype), teachers=teachers, routes=routes, config=config, callbacks=callbacks
        )

    return make
