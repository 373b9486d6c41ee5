"""Stochastic rollouts: every step is `ops.sde_step`, and a path follows from its own seed."""

from __future__ import annotations

import pytest
import torch

from danceopd import ops
from danceopd.flow import ModelField, SigmaGrid, stochastic_rollout
from danceopd.flow.stochastic import step_seeds

from .toys import Recorder, ToyModel, draw_condition, draw_sample, predict

GRID = SigmaGrid.shifted(6, 3.0)
FIELD = ModelField(ToyModel(), predict)
SEEDS = torch.tensor([3, 2**62, 0, 77, 5])


def test_every_step_is_drawn_from_the_transition_it_is_logged_with() -> None:
    noise, condition = draw_sample(5), draw_condition(5)
    path = stochastic_rollout(FIELD, noise, GRID, condition, SEEDS, noise_level=0.7)
    assert path.sample.shape == (5, 7, *noise.shape[1:]) and torch.equal(path.sample[:, 0], noise)
    for state, (here, there) in enumerate(zip(GRID.values, GRID.values[1:], strict=False)):
        now, reached = path.sample[:, state].contiguous(), path.sample[:, state + 1].contiguous()
        with torch.no_grad():
            velocity = FIELD(now, torch.full((5,), here), condition)
        step = ops.sde_step(now, velocity, here, there, noise_level=0.7, next_sample=reached)
        torch.testing.assert_close(path.log_prob[:, state], step.log_prob, rtol=1e-5, atol=1e-5)
        drawn = (reached - step.mean).flatten(1)
        std = step.std * max(here - there, 1e-6) ** 0.5
        assert 0.4 < float((drawn / std[:, None]).std()) < 1.7  # 60 numbers of a standard normal law


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_a_path_does_not_depend_on_its_batch(batch_size: int) -> None:
    noise, condition = draw_sample(5), draw_condition(5)
    recorder = Recorder(FIELD)
    whole = stochastic_rollout(FIELD, noise, GRID, condition, SEEDS, noise_level=0.7)
    cut = stochastic_rollout(recorder, noise, GRID, condition, SEEDS, noise_level=0.7, batch_size=batch_size)
    assert max(recorder.batches) == batch_size
    torch.testing.assert_close(cut.sample, whole.sample, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(cut.log_prob, whole.log_prob, rtol=1e-4, atol=1e-4)


def test_seeds_of_steps_never_meet() -> None:
    seeds = step_seeds(torch.arange(200), 20)
    assert seeds.shape == (200, 20) and len(seeds.unique()) == 4000 and int(seeds.min()) >= 0
    assert torch.equal(step_seeds(torch.arange(200), 7), seeds[:, :7])
