from __future__ import annotations

import pytest
import torch

from danceopd.flow import draw_noise


def test_a_sample_depends_on_its_seed_alone() -> None:
    together = draw_noise([3, 4, 2**63 - 1], (2, 5))
    assert together.shape == (3, 2, 5) and together.dtype == torch.float32
    for b, seed in enumerate([3, 4, 2**63 - 1]):
        assert torch.equal(draw_noise([seed], (2, 5))[0], together[b])


def test_it_is_standard_normal_and_uncorrelated_between_neighbouring_seeds() -> None:
    noise = draw_noise(range(64), (1024,))
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.02)
    assert float(noise.std()) == pytest.approx(1.0, abs=0.02)
    assert float((noise[1:] * noise[:-1]).mean()) == pytest.approx(0.0, abs=0.02)


def test_no_seeds_make_an_empty_batch() -> None:
    assert draw_noise([], (3,)).shape == (0, 3)
