"""Students start where they are told to, learn, and come back from their files."""

from __future__ import annotations

import tracemalloc
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from danceopd.families import Student, StudentConfig, Teacher
from danceopd.families.lora import Factors, combine
from danceopd.families.pretrained import PretrainedFamily
from danceopd.families.students import StudentStart, full_student
from danceopd.flow import VelocityField
from danceopd.methods import Batch
from tests.families import tiny
from tests.families.fields import inputs, new_family, velocity
from tests.families.parity import error, folder_of
from tests.families.tiny.loras import make_lora
from tests.methods.updates import update

torch.set_num_threads(1)

KIND = "sd3"
RANK, ALPHA = 4, 8.0


@cache
def lora_of(seed: int) -> str:
    made = make_lora(tiny.build(KIND).transformer, Path(mkdtemp()), rank=RANK, alpha=ALPHA, seed=seed)
    return str(made.path)


def one_update(family: PretrainedFamily, student: Student, teachers: list[VelocityField]) -> Tensor:
    sample, _, condition = inputs(family, rows=4)
    route = torch.arange(4) % len(teachers)
    batch = Batch(sample, condition, route, torch.tensor([[0], [1], [2], [1]]))
    grid = family.grid(3, sample.shape[1:])
    return update(student.field, teachers, batch, grid, micro_batch_size=2).loss


def trained(student: Student) -> dict[str, Tensor]:
    return {name: p for name, p in student.module.named_parameters() if p.requires_grad}


def test_a_lora_student_starts_as_the_base_and_only_it_trains() -> None:
    family = new_family(KIND)
    student = family.student(StudentConfig(rank=3))
    base = velocity(family, family.teacher(Teacher("base")))
    assert torch.equal(velocity(family, student.field), base)
    assert trained(student) and all(".lora_" in name and ".student." in name for name in trained(student))
    teacher = family.teacher(Teacher("one", lora=lora_of(1)))
    assert one_update(family, student, [teacher]).min() > 0
    assert all(p.grad is None for name, p in family.base.named_parameters() if name not in trained(student))
    ups = {name: p.grad for name, p in trained(student).items() if ".lora_B." in name}
    still = [name for name, gradient in ups.items() if gradient is None or not gradient.any()]
    # The last block returns no text, so the query of its text is never used.
    assert ups and all("transformer_blocks.1.attn.add_q_proj" in name for name in still), still


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_student_that_is_its_teacher_has_no_loss(dtype: torch.dtype, checkpointing: bool) -> None:
    family = new_family(KIND, dtype)
    teacher = Teacher("one", lora=lora_of(1))
    config = StudentConfig(rank=RANK, alpha=ALPHA, init="one", gradient_checkpointing=checkpointing)
    student = family.student(config, [teacher])
    assert one_update(family, student, [family.teacher(teacher)]).tolist() == [0.0] * 4
    base = family.student(StudentConfig(kind="full"))
    assert one_update(family, base, [family.teacher(Teacher("base"))]).tolist() == [0.0] * 4


@pytest.mark.parametrize("rank", [RANK, 7, 2])
def test_a_student_starts_from_a_teacher_of_another_rank(rank: int) -> None:
    family = new_family(KIND)
    teacher = Teacher("one", lora=lora_of(1), scale=0.5)
    student = family.student(StudentConfig(rank=rank, init="one"), [teacher])
    wanted, base = (velocity(family, family.teacher(t)) for t in (teacher, Teacher("base")))
    got = velocity(family, student.field)
    if rank >= RANK:
        assert error(got, wanted) < 1e-5
    else:  # the best that rank holds: nearer than the base, and not there
        assert 1e-3 < error(got, wanted) < error(base, wanted)
    downs = [p for name, p in trained(student).items() if ".lora_A." in name]
    assert all((p.abs().sum(dim=1) > 0).all() for p in downs)  # no row that could never learn


def test_a_student_starts_from_a_merge(tmp_path: Path) -> None:
    family = new_family(KIND)
    teachers = [Teacher("one", lora=lora_of(1)), Teacher("two", lora=lora_of(2))]
    init = {"one": 0.75, "two": 0.25, lora_of(3): -0.5}
    lora = family.student(StudentConfig(rank=3 * RANK, init=init), teachers)
    full = family.student(StudentConfig(kind="full", init=init), teachers)
    merged = velocity(family, full.field)
    assert error(velocity(family, lora.field), merged) < 1e-5
    assert error(velocity(family, family.teacher(Teacher("base"))), merged) > 0.01


def test_a_start_that_is_zero_in_one_factor_stays_what_it_is(tmp_path: Path) -> None:
    tensors = load_file(lora_of(1))
    for name, tensor in tensors.items():
        if ".lora_A." in name:
            tensor[0] = 0  # its column of B is not zero
    path = tmp_path / "lora.safetensors"
    with safe_open(lora_of(1), framework="pt") as file:
        save_file(tensors, path, file.metadata())
    family = new_family(KIND)
    wanted = velocity(family, family.teacher(Teacher("one", lora=str(path))))
    student = family.student(StudentConfig(rank=RANK, alpha=ALPHA, init=str(path)))
    assert torch.equal(velocity(family, student.field), wanted)


def test_combine_is_the_best_of_its_rank() -> None:
    generator = torch.Generator().manual_seed(0)

    def factors(rank: int) -> Factors:
        draw = [torch.randn(*shape, generator=generator) for shape in ((rank, 20), (30, rank))]
        return Factors(draw[0], draw[1], 0.7)

    parts = [({"x": factors(3)}, 0.5), ({"x": factors(4)}, 2.0), ({"y": factors(2)}, 1.0)]
    whole = sum(f * lora["x"].scale * lora["x"].b @ lora["x"].a for lora, f in parts if "x" in lora)
    for rank in (9, 7, 5, 1):
        got = combine(parts, "x", rank, 1.5)
        assert got is not None and got.rank == rank
        left = torch.linalg.svdvals((whole - got.scale * got.b @ got.a).double())
        best = torch.linalg.svdvals(whole.double())[rank:].norm()
        assert abs(float(left.norm() - best)) < 1e-4 * float(torch.linalg.norm(whole))
    assert combine(parts, "z", 3, 1.0) is None


@pytest.mark.parametrize("wide", [False, True], ids=["same-layers", "layers-of-the-teacher-alone"])
def test_gradient_checkpointing_changes_no_gradient(wide: bool, tmp_path: Path) -> None:
    more = ("to_q", "to_k", "to_v", "ff.net.2") if wide else None
    teacher = make_lora(tiny.build(KIND).transformer, tmp_path, targets=more, seed=1)
    gradients = []
    for checkpointing in (False, True):
        family = new_family(KIND)
        # Its adapter must not be the one that is recomputed.
        family.teacher(Teacher("first", lora=lora_of(3)))
        torch.manual_seed(0)  # of layers that the start leaves out
        student = family.student(
            StudentConfig(rank=RANK, init=lora_of(2), gradient_checkpointing=checkpointing)
        )
        one_update(family, student, [family.teacher(Teacher("one", lora=str(teacher.path)))])
        gradients.append({name: p.grad for name, p in trained(student).items()})
    for name, gradient in gradients[0].items():
        assert gradient is not None
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("alpha", [None, 6.0])
def test_an_exported_lora_is_the_student_in_plain_diffusers(alpha: float | None, tmp_path: Path) -> None:
    family = new_family(KIND)
    student = family.student(StudentConfig(rank=3, alpha=alpha))
    with torch.no_grad():
        for parameter in trained(student).values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    wanted = velocity(family, student.field)
    path = student.export(tmp_path, trained(student))
    pipeline: Any = tiny.load(folder_of(KIND))
    predict = student.field.predict  # type: ignore[attr-defined]
    before = predict(pipeline.transformer, *inputs(family)).detach()
    pipeline.load_lora_weights(tmp_path)
    assert error(predict(pipeline.transformer, *inputs(family)).detach(), wanted) < 5e-6
    assert error(before, wanted) > 0.01
    again = new_family(KIND).teacher(Teacher("again", lora=str(path)))
    assert error(velocity(family, again), wanted) < 5e-6


def test_an_exported_full_student_is_a_checkpoint(tmp_path: Path) -> None:
    family = new_family(KIND)
    student = family.student(StudentConfig(kind="full", init=lora_of(1)))
    wanted = velocity(family, student.field)
    assert student.export(tmp_path, trained(student)) == tmp_path / "transformer"
    for path in (tmp_path, tmp_path / "transformer"):
        again = new_family(KIND).teacher(Teacher("again", checkpoint=str(path)))
        assert torch.equal(velocity(family, again), wanted)
    further = family.student(StudentConfig(kind="full", init=str(tmp_path)))
    assert torch.equal(velocity(family, further.field), wanted)


class Large(nn.Linear):
    """Weights beside which all else is small."""

    def save_config(self, folder: Path) -> None:
        pass


def test_full_weights_are_exported_without_a_copy(tmp_path: Path) -> None:
    model = Large(1024, 1024)
    export = full_student(model, StudentStart(), nn.Identity)  # type: ignore[arg-type]
    tracemalloc.start()  # sees what Python holds, such as a file in bytes
    try:
        export(tmp_path, dict(model.named_parameters()))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 0.5 * model.weight.nbytes


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"init": "nothing"}, "the LoRA 'nothing' is not there"),
        ({"targets": ["to_z"]}, "student.targets names 'to_z', but no linear layer of the model ends so"),
        ({"targets": ["attn.to_q"], "init": "one"}, "student.targets leaves out"),
        ({"init": "full"}, "student.init names the full weights"),
        ({"guidance_vector": 3.0}, "student has guidance_vector=3.0, but this Stable Diffusion 3 takes none"),
        ({"kind": "full", "init": {"one": 1.0, "other": 1.0}}, "the LoRA 'other' is not there"),
        ({"init": "guided"}, "student.init names teacher 'guided', which is guidance on the base"),
        ({"init": {"guided": 0.5}}, "student.init names teacher 'guided', which is guidance on the base"),
        ({"init": {"plain": 0.5, "one": 1.0}}, "student.init scales teacher 'plain', which is the base"),
    ],
)
def test_a_start_that_cannot_be_is_one_sentence(settings: dict[str, Any], words: str) -> None:
    teachers = [
        Teacher("one", lora=lora_of(1)),
        Teacher("full", checkpoint=str(folder_of(KIND))),
        Teacher("guided", guidance_scale=3.0),
        Teacher("plain"),
    ]
    with pytest.raises(ValueError) as caught:
        new_family(KIND).student(StudentConfig(**settings), teachers)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_base_is_the_base_whatever_a_teacher_is_called() -> None:
    family = new_family(KIND)
    base = velocity(family, family.teacher(Teacher("x")))
    student = family.student(StudentConfig(rank=2), [Teacher("base", lora=lora_of(1))])
    assert torch.equal(velocity(family, student.field), base)
    family = new_family(KIND)
    student = family.student(StudentConfig(rank=2, init="plain"), [Teacher("plain")])
    assert torch.equal(velocity(family, student.field), base)


def test_a_family_holds_one_lora_student() -> None:
    family = new_family(KIND)
    family.student(StudentConfig(rank=2))
    with pytest.raises(ValueError, match="has a LoRA student already: load the family again"):
        family.student(StudentConfig(rank=2))


def test_a_full_student_does_not_load_the_base() -> None:
    family = new_family(KIND)
    family.student(StudentConfig(kind="full", init=lora_of(1)))
    assert family._base is None
