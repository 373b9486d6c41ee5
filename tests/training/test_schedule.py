from __future__ import annotations

import pytest

from danceopd.training import TrainConfig
from danceopd.training.schedule import learning_rate


def _rates(schedule: str, warmup: int, steps: int = 10) -> list[float]:
    config = TrainConfig(
        output_dir="x",
        max_steps=steps,
        warmup_steps=warmup,
        learning_rate=2.0,
        lr_schedule=schedule,  # type: ignore[arg-type]
    )
    return [learning_rate(step, config) for step in range(steps + 1)]


def test_constant_is_held() -> None:
    assert _rates("constant", 0) == [2.0] * 11


def test_warmup_rises_from_the_first_update_to_the_peak() -> None:
    assert _rates("constant", 4)[:6] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]


def test_linear_falls_evenly_to_zero_at_the_end() -> None:
    assert _rates("linear", 2) == pytest.approx([1.0, 2.0, 2.0, 1.75, 1.5, 1.25, 1.0, 0.75, 0.5, 0.25, 0.0])


def test_cosine_is_half_way_in_the_middle_and_zero_at_the_end() -> None:
    rates = _rates("cosine", 0)
    assert rates[0] == 2.0
    assert rates[5] == pytest.approx(1.0)
    assert rates[10] == pytest.approx(0.0)
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_a_run_that_is_all_warmup_has_no_decay(schedule: str) -> None:
    assert _rates(schedule, 10)[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])
