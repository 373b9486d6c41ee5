"""In an update the host waits for the device where the losses are read, and nowhere before."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

import danceopd.training.trainer as trainer_module
from danceopd import ops
from danceopd.families import Family, load_family
from danceopd.flow import replayed
from danceopd.methods import METHODS
from danceopd.training import DanceOPDTrainer, Route, StudentConfig, Teacher, TrainConfig
from tests.flow.recording import OnTheHost
from tests.training.pretended import DEVICE, PretendedDevice

AT_THE_END = [
    ("reads by cpu", "training/batch.py", "in_order_of_slots"),  # losses, errors, noise levels: in one piece
    # Inside torch's own clipping, which asks below Python for the device and is told the truth here.
    ("reads by to", "training/weights.py", "clip"),
    ("reads by __float__", "training/weights.py", "clip"),  # the gradient's norm
]
SETTINGS: dict[str, dict[str, Any]] = {
    "danceopd": {},
    "danceopd, in narrow slots": {"rollout_batch_size": 2},
    "danceopd, of second order": {"rollout_batch_size": 3, "rollout_solver": "ab2"},
    "danceopd, two states": {"method": {"name": "danceopd", "states": 2, "weighting": "sigma"}},
    "danceopd, guided student": {"student_guidance_scale": 2.0, "rollout_batch_size": 3},
    "danceopd, masks": {"unedited_weight": 0.5},
    "diffusionopd": {"method": "diffusionopd"},
    "flowopd": {"method": {"name": "flowopd", "group_size": 2, "anchor": "base", "anchor_weight": 0.1}},
    "offpolicy": {"method": "offpolicy"},
    "soft": {"method": "soft"},
    "sft": {"method": "sft"},
}


def test_every_method_is_looked_at() -> None:
    assert {name.partition(",")[0] for name in SETTINGS} == set(METHODS)


def waits_of(
    family: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, routes: list[Route], **settings: Any
) -> list[tuple[str, str, str]]:
    """Of the second update of a run."""
    defaults: dict[str, Any] = {
        "output_dir": folder / "run",
        "max_steps": 2,
        "batch_size": 3,
        "gradient_accumulation_steps": 2,
        "num_rollout_steps": 4,
        "ema_decay": 0.9,
        "progress": False,
        "student": StudentConfig(kind="lora", rank=4),
    }
    teachers = [Teacher("base"), Teacher("guided", guidance_scale=3.0)]
    trainer = DanceOPDTrainer(
        family=family, teachers=teachers, routes=routes, config=TrainConfig(**(defaults | settings))
    )
    trainer.prepare()
    trainer._one_update()
    monkeypatch.setattr(trainer_module, "seeded", lambda *place, device: nullcontext())  # of a real device
    monkeypatch.setattr(family, "device", DEVICE)
    mean = trainer.mean
    assert mean is not None
    module = trainer.student.module
    held = [*module.parameters(), *module.buffers(), *trainer.weights.masters.values(), *mean.mean.values()]
    with ops.use("reference"), PretendedDevice(held) as device:
        trainer._one_update()
    # What compiled kernels do on a device is not seen from here; their plain twins are not made for one.
    return [wait for wait in device.waits if not wait[1].startswith("ops/")]


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_an_update_waits_at_its_end_alone(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    routes = [Route("base", data="t2i"), Route("guided", data="local")]
    family: Family = load_family("shapesworld")
    assert waits_of(family, tmp_path, monkeypatch, routes, **settings) == AT_THE_END


def test_replayed_forwards_wait_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = OnTheHost()

    def as_graphs(mode: str, student: Any, teachers: Any, device: Any) -> Any:
        return replayed(student, host)

    monkeypatch.setattr(trainer_module, "compile_fields", as_graphs)
    routes = [Route("base", data="t2i"), Route("guided", data="local")]
    family: Family = load_family("shapesworld")
    assert waits_of(family, tmp_path, monkeypatch, routes, rollout_batch_size=3) == AT_THE_END
    assert host.replays > host.recorded > 0


def test_waits_are_noticed() -> None:
    host = torch.arange(4.0)
    with PretendedDevice([]) as device:
        there = host.to(DEVICE)
        assert there.device == DEVICE and host.device.type == "cpu"
        assert (there * 2).device == DEVICE
        assert (there[1:] + 1).cpu().device.type == "cpu"
        there[torch.tensor([0, 1])]
        there[[0, 1]]
        there[there > 1]
        host[0] = there[2]
        torch.tensor([1.0], device=DEVICE)
        float(there.sum())
        if there[0] >= 0:
            there.nonzero()
        there[0] = 3.0
        there[torch.tensor([0, 1]).pin_memory().to(DEVICE, non_blocking=True)]
    assert [what for what, _, _ in device.waits] == [
        "sends by to",
        "reads by cpu",
        "sends an index",
        "sends an index",
        "reads a mask's size",
        "reads by an index",
        "sends by tensor",
        "reads by __float__",
        "reads by __bool__",
        "reads by nonzero",
    ]
