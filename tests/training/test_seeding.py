from __future__ import annotations

import pytest
import torch

from danceopd.training.seeding import seeded

CPU = torch.device("cpu")


def test_a_place_in_the_run_gives_its_numbers_whatever_was_drawn_before() -> None:
    drawn = []
    for before, place in ((1, 4), (2, 4), (1, 5)):
        torch.manual_seed(before)
        with seeded(0, place, device=CPU):
            drawn.append(torch.rand(3))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("fails", [False, True])
def test_the_generator_is_left_as_it_was(fails: bool) -> None:
    state = torch.get_rng_state()
    try:
        with seeded(0, 1, device=CPU):
            torch.rand(3)
            if fails:
                raise RuntimeError("an update failed")
    except RuntimeError:
        pass
    assert torch.equal(torch.get_rng_state(), state)


def test_no_generator_of_another_device_is_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.manual_seed would seed all devices, also one that CUDA only starts on later."""

    def refuse(seed: int) -> None:
        raise AssertionError("a device that is not in use was seeded")

    for module in (torch.cuda, torch.mps, torch.xpu):
        for name in ("manual_seed", "manual_seed_all"):
            monkeypatch.setattr(module, name, refuse, raising=False)
    with seeded(0, 1, device=CPU):
        torch.rand(3)


def test_on_a_gpu_that_one_is_seeded_alone_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pretended GPUs: their states are numbers."""
    states, current = {0: torch.tensor(7), 1: torch.tensor(8)}, [0]

    class Device:
        def __init__(self, index: int) -> None:
            self.index = index

        def __enter__(self) -> None:
            self.before, current[0] = current[0], self.index

        def __exit__(self, *error: object) -> None:
            current[0] = self.before

    def put(state: torch.Tensor, device: int) -> None:
        states[device] = state

    monkeypatch.setattr(torch.cuda, "device", Device)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[0])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: states[device])
    monkeypatch.setattr(torch.cuda, "set_rng_state", put)
    monkeypatch.setattr(torch.cuda, "manual_seed", lambda seed: put(torch.tensor(0), current[0]))
    for name, seeded_one in (("cuda", 0), ("cuda:1", 1)):
        with seeded(0, 1, device=torch.device(name)):
            assert {index for index, state in states.items() if state == 0} == {seeded_one}
        assert [int(state) for state in states.values()] == [7, 8]


@pytest.mark.gpu
def test_real_gpus_are_left_as_they_were() -> None:
    before = [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]
    with seeded(0, 1, device=torch.device("cuda")):
        first = torch.rand(3, device="cuda")
    with seeded(0, 1, device=torch.device("cuda:0")):
        assert torch.equal(torch.rand(3, device="cuda"), first)
    after = [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
