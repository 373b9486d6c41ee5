from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from danceopd.families import EncodedWhenAsked
from danceopd.flow import SigmaGrid, VelocityField, draw_noise, rollout
from danceopd.training import Callback, ConfigError, DanceOPDTrainer, Route, Teacher, ValidationSettings
from danceopd.training.grids import Grids
from tests.training.tiny import TinyFamily, TinyNet

MakeTrainer = Callable[..., DanceOPDTrainer]


class Pictures(Callback):
    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_picture(self, step: int, path: Path) -> None:
        assert path.name == f"step-{step:08d}.png" and path.is_file()
        self.steps.append(step)


def cells(path: Path, columns: int, rows: int) -> np.ndarray[Any, Any]:
    """[rows, columns, 3] the colour in the middle of each image, whose place follows from the sizes."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    side, margin, line = 256, 8, 20
    tops = [line + margin + row * (line + side + margin) + line for row in range(rows)]
    lefts = [margin + column * (side + margin) for column in range(columns)]
    assert pixels.shape[:2] == (tops[-1] + side + margin, lefts[-1] + side + margin)
    return np.array([[pixels[top + 224, left + 32] for left in lefts] for top in tops])


def expected(family: TinyFamily, field: VelocityField, prompt: str, seed: int, steps: int) -> Tensor:
    """[3] the pixel that `cells` looks at, drawn directly."""
    from danceopd.families import Example

    condition = family.encode([Example(prompt)])
    latent = rollout(field, draw_noise([seed], (3, 4, 4)), SigmaGrid.uniform(steps), condition).sample
    return family.decode(latent)[0, :, 3, 0]


def test_a_picture_shows_teachers_and_student_on_the_first_rows_of_each_route(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    seen = Pictures()
    trainer = make_trainer(
        validation={"every": 5, "rows": 2, "num_steps": 3, "seed": 9}, ema_decay=0.9, callbacks=[seen]
    )
    start = {name: weight.detach().clone() for name, weight in trainer.weights.masters.items()}
    trainer.train()
    assert seen.steps == [0, 5, 10, 12]
    folder = tmp_path / "run" / "grids"
    assert sorted(path.name for path in folder.glob("*.png")) == [f"step-{s:08d}.png" for s in seen.steps]

    student = TinyNet(0, torch.float32)
    for step, weights in ((0, start), (12, load_file(tmp_path / "run" / "student.safetensors"))):
        student.load_state_dict(weights)
        colours = cells(folder / f"step-{step:08d}.png", columns=3, rows=4)
        for row, prompt in enumerate(["0", "1", "0", "1"]):
            fields = [*trainer.teachers, type(trainer.student.field)(student, trainer.student.field.predict)]
            for column, field in enumerate(fields):
                colour = expected(trainer.family, field, prompt, 9 + row, steps=3)
                assert colours[row, column].tolist() == colour.tolist(), (step, row, column)
    with Image.open(folder / "step-00000012.png") as image:
        assert image.info["Description"] == (
            "Columns: one, two, student, step 12. Rows: one: 0; one: 1; two: 0; two: 1."
        )


def test_pictures_change_no_bit_of_the_training(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        exports = []
        for name, validation in (("with", {"every": 1, "guidance_scale": 2.0}), ("without", None)):
            folder = tmp_path / str(dtype) / name
            trainer = make_trainer(output_dir=folder, validation=validation, ema_decay=0.9, dtype=dtype)
            trainer.train()
            weights = load_file(folder / "checkpoints" / "step-00000012" / "student.safetensors")
            moments = load_file(folder / "checkpoints" / "step-00000012" / "optimizer.safetensors")
            exports.append(weights | moments)
        assert all(torch.equal(exports[0][name], exports[1][name]) for name in exports[1])


def test_teachers_are_drawn_once_also_over_resumptions(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn: list[int] = []
    original = TinyNet.forward

    def forward(self: TinyNet, *args: Any) -> Tensor:
        if not torch.is_grad_enabled() and not self.inner.weight.requires_grad:
            drawn.append(1)
        return original(self, *args)

    monkeypatch.setattr(TinyNet, "forward", forward)
    validation = {"every": 2, "num_steps": 50, "prompts": ["4"]}
    make_trainer(max_steps=4, validation=validation).train()
    in_training = 4 * 2 * 2  # an update asks two teachers at most, in two passes
    assert 100 <= len(drawn) <= 100 + in_training
    drawn.clear()
    seen = Pictures()
    make_trainer(max_steps=8, validation=validation | {"every": 3}, callbacks=[seen]).train()
    assert len(drawn) <= in_training and seen.steps == [6, 8]
    (tmp_path / "run" / "grids" / ".teachers.safetensors").write_bytes(b"broken")
    make_trainer(max_steps=10, validation=validation).train()
    assert len(drawn) >= 100


def test_a_run_that_is_stopped_draws_no_last_picture(make_trainer: MakeTrainer) -> None:
    import signal

    class Stop(Callback):
        def on_update(self, line: Mapping[str, Any]) -> None:
            signal.raise_signal(signal.SIGINT)

    seen = Pictures()
    result = make_trainer(validation={}, callbacks=[Stop(), seen]).train()
    assert result.step == 1 and seen.steps == [0]


def test_rows_may_come_from_data_or_prompts(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    path = tmp_path / "run" / "grids" / "step-00000012.png"
    make_trainer(validation={"data": "3", "rows": 2}).train()
    with Image.open(path) as image:
        assert image.info["Description"].endswith("Rows: 0; 1.")
    with pytest.raises(ConfigError, match="both prompts and data: drop one"):
        ValidationSettings(prompts=["1"], data="3")
    with pytest.raises(ConfigError, match="the data '0' of validation has no rows"):
        make_trainer(validation={"data": "0"})
    with pytest.raises(ConfigError, match=r"unknown key 'validation.row': did you mean 'rows'"):
        make_trainer(validation={"row": 2})
    with pytest.raises(ConfigError, match=r"data must be a text or a datasets.Dataset, got int"):
        make_trainer(validation={"data": 3})


def test_memory_of_decoders_is_given_back(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    decode = TinyFamily.decode
    monkeypatch.setattr(
        TinyFamily, "decode", lambda self, sample: (calls.append("decode"), decode(self, sample))[1]
    )
    monkeypatch.setattr(TinyFamily, "release_encoders", lambda self: calls.append("release"))
    make_trainer(validation={"every": 12, "rows": 1}).train()
    # Two teachers on two rows, the student's start, and the student.
    assert calls == [*["decode"] * 4, "release", *["decode", "decode", "release"] * 2]


def test_a_changed_teacher_is_drawn_anew_where_a_run_was_killed_before_its_first_checkpoint(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    teacher = tmp_path / "teacher.safetensors"
    settings: dict[str, Any] = {
        "teachers": [Teacher("one", checkpoint=str(teacher))],
        "routes": [Route("one", data="3")],
        "validation": {"every": 6, "rows": 1},
        "max_steps": 1,
    }
    save_file(TinyNet(1, torch.float32).state_dict(), teacher)
    make_trainer(**settings).train()
    shutil.rmtree(tmp_path / "run/checkpoints")
    save_file(TinyNet(2, torch.float32).state_dict(), teacher)
    make_trainer(**settings).train()
    make_trainer(output_dir=tmp_path / "fresh", **settings).train()
    kept, fresh = (load_file(tmp_path / run / "grids/.teachers.safetensors") for run in ("run", "fresh"))
    assert torch.equal(kept["one.0"], fresh["one.0"])


def test_other_sizes_are_drawn_anew(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(max_steps=1)
    trainer.train()
    grids, keys = Grids(ValidationSettings(rows=1), trainer.family), set()
    grids.on_start(trainer)
    for shape in ((3, 4, 4), (3, 4, 8)):
        monkeypatch.setattr(EncodedWhenAsked, "shape", lambda self, row, shape=shape: shape)
        keys.add(grids._key())
    assert len(keys) == 2
