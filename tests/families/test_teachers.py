"""Teachers share one base, give what plain diffusers gives, and mix in one batch."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from torch import nn

from danceopd.families import StudentConfig, Teacher, load_family
from danceopd.families.placement import OffloadedField
from danceopd.flow import AdapterField, GuidedField, routed_velocity
from tests.families import tiny
from tests.families.fields import inputs, new_family, velocity
from tests.families.parity import error, folder_of
from tests.families.tiny.loras import make_lora

torch.set_num_threads(1)

KIND = "flux2-klein"  # text and editing, and layers of unusual names
ROUNDING = 5e-6


@cache
def lora_of(seed: int) -> Path:
    return make_lora(tiny.build(KIND).transformer, Path(mkdtemp()), fmt="diffusers", seed=seed).path


@cache
def other_checkpoint() -> Path:
    return tiny.save(KIND, Path(mkdtemp()) / "other", seed=5)


def storages(module: nn.Module) -> dict[int, int]:
    """Bytes of every storage under a module's parameters."""
    return {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in module.parameters()}


def test_three_lora_teachers_and_a_student_hold_the_base_once() -> None:
    family = new_family(KIND)
    before = storages(family.base)
    fields = [family.teacher(Teacher(str(seed), lora=str(lora_of(seed)))) for seed in range(3)]
    student = family.student(StudentConfig(rank=4))
    models = [field.model for field in fields if isinstance(field, AdapterField)]
    assert len(models) == 3 and all(model is family.base for model in [*models, student.module])
    after = storages(family.base)
    assert before.items() <= after.items()
    factors = sum(p.nbytes for name, p in family.base.named_parameters() if ".lora_" in name)
    assert sum(after.values()) == sum(before.values()) + factors
    assert factors < 0.8 * sum(before.values())


def test_a_lora_teacher_is_what_diffusers_loads() -> None:
    family = new_family(KIND)
    field = family.teacher(Teacher("a", lora=str(lora_of(1))))
    pipeline: Any = tiny.load(folder_of(KIND))
    plain = AdapterField(pipeline.transformer, None, field.predict)  # type: ignore[attr-defined]
    base = velocity(family, plain)
    assert error(velocity(family, family.teacher(Teacher("base"))), base) < ROUNDING
    pipeline.load_lora_weights(lora_of(1).parent, weight_name=lora_of(1).name)
    expected = field.predict(pipeline.transformer, *inputs(family)).detach()  # type: ignore[attr-defined]
    assert error(velocity(family, field), expected) < ROUNDING
    assert error(expected, base) > 0.05


def test_strength_scales_a_lora() -> None:
    family = new_family(KIND)
    none, half, whole, base = (
        velocity(family, family.teacher(teacher))
        for teacher in (
            Teacher("0", lora=str(lora_of(1)), scale=0.0),
            Teacher("h", lora=str(lora_of(1)), scale=0.5),
            Teacher("1", lora=str(lora_of(1))),
            Teacher("base"),
        )
    )
    assert error(none, base) < ROUNDING
    assert 0.01 < error(half, base) < error(whole, base)


def test_equal_teachers_are_one_field_and_others_are_not() -> None:
    family = new_family(KIND)
    first = family.teacher(Teacher("a", lora=str(lora_of(1))))
    assert family.teacher(Teacher("b", lora=str(lora_of(1)))) is first
    assert family.teacher(Teacher("c", lora=str(lora_of(1)), scale=0.5)) is not first
    guided = family.teacher(Teacher("d", lora=str(lora_of(1)), guidance_scale=3.0))
    assert isinstance(guided, GuidedField) and guided.field is first


def test_guidance_is_one_forward_per_layout() -> None:
    family = new_family(KIND)
    guided = family.teacher(Teacher("g", guidance_scale=3.0))
    calls = []
    handle = family.base.register_forward_hook(
        lambda module, args, kwargs, output: calls.append(len(kwargs["hidden_states"])), with_kwargs=True
    )
    velocity(family, guided)
    handle.remove()
    assert sorted(calls) == [2, 2, 4]  # 4 rows of three layouts, conditional and unconditional together


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_mixed_routes_equal_rows_one_by_one(guidance: float) -> None:
    family = new_family(KIND)
    fields = [
        family.teacher(Teacher("base")),
        family.teacher(Teacher("one", lora=str(lora_of(1)))),
        family.teacher(Teacher("two", lora=str(lora_of(2)), guidance_scale=guidance)),
        family.teacher(Teacher("full", checkpoint=str(other_checkpoint()))),
        family.teacher(Teacher("both", checkpoint=str(other_checkpoint()), lora=str(lora_of(1)))),
        family.teacher(Teacher("away", checkpoint=str(other_checkpoint()), offload=True)),
    ]
    sample, sigma, condition = inputs(family, rows=9)
    index = torch.tensor([3, 0, 1, 5, 2, 4, 1, 0, 3])
    with torch.no_grad():
        mixed = routed_velocity(fields, index, sample, sigma, condition)
        alone = [
            fields[index[b]](sample[b : b + 1], sigma[b : b + 1], condition.take(torch.tensor([b])))
            for b in range(9)
        ]
    assert error(mixed, torch.cat(alone)) < ROUNDING
    ways = routed_velocity(fields, torch.full((9,), 0), sample, sigma, condition)
    assert error(mixed[index != 0], ways[index != 0].detach()) > 0.05


def test_full_checkpoints_are_found_in_every_form(tmp_path: Path) -> None:
    family = new_family(KIND)
    expected = velocity(family, family.teacher(Teacher("a", checkpoint=str(other_checkpoint()))))
    assert error(expected, velocity(family, family.teacher(Teacher("base")))) > 0.05
    folder = other_checkpoint() / "transformer"
    (file,) = folder.glob("*.safetensors")
    for place in (folder, file):
        assert torch.equal(velocity(family, family.teacher(Teacher("b", checkpoint=str(place)))), expected)


def test_an_offloaded_teacher_waits_elsewhere_and_answers_the_same() -> None:
    family = new_family(KIND)
    here = family.teacher(Teacher("a", checkpoint=str(other_checkpoint())))
    away = family.teacher(Teacher("b", checkpoint=str(other_checkpoint()), offload=True))
    assert isinstance(away, OffloadedField) and away.model is not here.model  # type: ignore[attr-defined]
    assert torch.equal(velocity(family, away), velocity(family, here))


@pytest.mark.filterwarnings("ignore")  # of torchao, about kernels for other devices
def test_a_quantised_teacher_is_near_and_smaller() -> None:
    family = new_family(KIND, torch.bfloat16)
    plain = family.teacher(Teacher("a", checkpoint=str(other_checkpoint())))
    small = family.teacher(Teacher("b", checkpoint=str(other_checkpoint()), quantization="int8"))
    assert 0 < error(velocity(family, small), velocity(family, plain)) < 0.1
    types = {type(p).__name__ for p in small.model.parameters()}  # type: ignore[attr-defined]
    assert "Int8Tensor" in types


def test_teachers_are_frozen_and_leave_no_gradient() -> None:
    family = new_family(KIND)
    fields = [family.teacher(Teacher("base")), family.teacher(Teacher("one", lora=str(lora_of(1))))]
    assert not any(p.requires_grad for p in family.base.parameters())
    assert not any(field(*inputs(family)).requires_grad for field in fields)


@pytest.mark.parametrize(
    ("teacher", "words"),
    [
        (Teacher("a", lora="/nowhere/lora.safetensors"), "the LoRA '/nowhere/lora.safetensors' is not there"),
        (Teacher("a", checkpoint="/nowhere"), "the checkpoint '/nowhere' is not there"),
        (
            Teacher("a", guidance_vector=3.0),
            "teacher 'a' has guidance_vector=3.0, but this FLUX.2 takes none",
        ),
    ],
)
def test_a_teacher_that_cannot_be_loaded_is_one_sentence(teacher: Teacher, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        new_family(KIND).teacher(teacher)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_teachers_of_other_models_are_refused_and_leave_the_base_alone(tmp_path: Path) -> None:
    family = new_family(KIND)
    before = velocity(family, family.teacher(Teacher("base")))
    wide = make_lora(tiny.build(KIND).transformer, tmp_path, fmt="diffusers")
    from safetensors.torch import load_file, save_file

    tensors = {
        name: torch.cat([t, t], dim=1) if "lora_A" in name else t for name, t in load_file(wide.path).items()
    }
    save_file(tensors, wide.path)
    with pytest.raises(ValueError, match=r"is not for .*other shapes than the model at"):
        family.teacher(Teacher("wide", lora=str(wide.path)))
    with pytest.raises(ValueError, match="belong to no layer"):
        path = make_lora(tiny.build("sd3").transformer, tmp_path / "sd3").path
        family.teacher(Teacher("sd3", lora=str(path)))
    with pytest.raises(ValueError, match=r"cannot be loaded as Flux2Transformer2DModel|is of another model"):
        family.teacher(Teacher("flux1", checkpoint=str(folder_of("flux1-dev"))))
    assert torch.equal(velocity(family, family.teacher(Teacher("base"))), before)
    assert not any(".lora_" in name for name, _ in family.base.named_parameters())


def test_a_truncated_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    folder = tiny.save(KIND, tmp_path / "broken")
    (file,) = (folder / "transformer").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(
        ValueError, match=r"cannot be loaded as Flux2Transformer2DModel \(.*restore its files"
    ):
        load_family(folder).teacher(Teacher("base"))
