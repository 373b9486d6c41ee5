"""A student that is its teacher learns nothing: to the bit, where both are the same weights in one form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from danceopd.shapesworld import ShapesWorldFamily
from danceopd.shapesworld.weights import write_weights
from danceopd.training import DanceOPDTrainer, Route, StudentConfig, Teacher, TrainConfig, read_metrics

from .test_family import LORA, write_lora


def losses(family: ShapesWorldFamily, folder: Path, teacher: Teacher, **student: Any) -> list[float]:
    """Two updates on captions and edits; the weights must not move where there is no loss."""
    config = TrainConfig(
        output_dir=folder,
        student=StudentConfig(**student),
        max_steps=2,
        batch_size=3,
        gradient_accumulation_steps=2,
        num_rollout_steps=2,
        learning_rate=1e-2,
        progress=False,
    )
    routes = [Route("same", data="t2i"), Route("same", data="edit")]
    trainer = DanceOPDTrainer(family=family, teachers=[teacher], routes=routes, config=config)
    before = {name: weight.detach().clone() for name, weight in trainer.weights.masters.items()}
    trainer.train()
    found = [line["loss"] for line in read_metrics(folder / "metrics.jsonl")]
    if not any(found):
        for name, weight in trainer.weights.masters.items():
            assert torch.equal(weight, before[name]), name
    return found


@pytest.mark.parametrize("expert", ["base", "global"])
@pytest.mark.parametrize("student", [{}, LORA], ids=["full", "lora"])
def test_the_same_weights_in_the_same_form_have_no_loss(
    family: ShapesWorldFamily, tmp_path: Path, expert: str, student: dict[str, Any]
) -> None:
    teacher = Teacher("same") if expert == "base" else Teacher("same", checkpoint=expert)
    assert losses(family, tmp_path / "run", teacher, init=expert, **student) == [0.0, 0.0]


def test_a_base_that_carries_loras_is_still_the_base(family: ShapesWorldFamily, tmp_path: Path) -> None:
    family.teacher(Teacher("other", lora=str(write_lora(family, tmp_path / "lora"))))
    assert losses(family, tmp_path / "run", Teacher("same")) == [0.0, 0.0]


def test_a_lora_and_its_merged_weights_agree_to_rounding(family: ShapesWorldFamily, tmp_path: Path) -> None:
    lora = str(write_lora(family, tmp_path / "lora"))
    apart = losses(family, tmp_path / "apart", Teacher("same", lora=lora), init="base")
    found = losses(family, tmp_path / "run", Teacher("same", lora=lora), init=lora)
    assert apart[0] > 1e-3
    assert 0.0 < found[0] < 1e-9
    merged = tmp_path / "merged.safetensors"
    write_weights(merged, family.full_model(lora).state_dict(), {"kind": "full"})
    teacher = Teacher("same", checkpoint=str(merged))
    assert losses(family, tmp_path / "exact", teacher, init=lora) == [0.0, 0.0]
