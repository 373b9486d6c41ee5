from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from danceopd.families import load_family
from danceopd.flow import AdapterField, GuidedField, VelocityField
from danceopd.shapesworld import ShapesWorldFamily
from danceopd.shapesworld.weights import STUDENT_FILE, find_weights, read_weights, write_weights
from danceopd.training import DanceOPDTrainer, Route, StudentConfig, Teacher, TrainConfig

ROUTES = [Route("base", data="t2i"), Route("global", data="global")]
TEACHERS = [Teacher("base"), Teacher("global", checkpoint="global")]
LORA: dict[str, Any] = {
    "kind": "lora",
    "rank": 2,
    "alpha": 3.0,
    "targets": ["to_q", "to_out", "to_qkv_mlp_proj"],
}


def velocity(family: ShapesWorldFamily, field: VelocityField) -> Tensor:
    """The field on two captions and two edits."""
    examples = [family.data("t2i")[0], family.data("edit")[0], family.data("t2i")[1], family.data("edit")[5]]
    sample = torch.randn(4, *family.shape(), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return field(sample, torch.tensor([1.0, 0.7, 0.4, 0.1]), family.encode(examples))


def train(family: ShapesWorldFamily, folder: Path, **student: Any) -> DanceOPDTrainer:
    """A run of one update."""
    config = TrainConfig(
        output_dir=folder,
        max_steps=1,
        batch_size=4,
        gradient_accumulation_steps=1,
        num_rollout_steps=2,
        learning_rate=1e-2,
        progress=False,
        student=StudentConfig(**student),
    )
    trainer = DanceOPDTrainer(family=family, teachers=TEACHERS, routes=ROUTES, config=config)
    trainer.train()
    return trainer


def write_lora(family: ShapesWorldFamily, folder: Path, *, init: str = "base", seed: int = 0) -> Path:
    """A LoRA whose factors are random numbers, through the student's own export."""
    student, stream = family.student(StudentConfig(init=init, **LORA)), torch.Generator().manual_seed(seed)
    trained = {name: p for name, p in student.module.named_parameters() if p.requires_grad}
    folder.mkdir()
    return student.export(
        folder, {n: 0.2 * torch.randn(p.shape, generator=stream) for n, p in trained.items()}
    )


def test_the_family_is_known_by_name() -> None:
    family = load_family("shapesworld", dtype=torch.bfloat16)
    assert isinstance(family, ShapesWorldFamily)
    assert (family.name, family.dtype, family.shape()) == ("shapesworld", torch.bfloat16, (3, 16, 16))
    assert family.grid(4).values == (1.0, 0.75, 0.5, 0.25, 0.0)


def test_rows_hold_prompt_source_target_and_task(family: ShapesWorldFamily) -> None:
    caption, edit = family.data("t2i")[3], family.data("edit")[3]
    assert not caption.sources and caption.target is not None
    (source,) = edit.sources
    assert edit.target is not None and source.dtype == torch.uint8 and source.shape == (3, 16, 16)
    assert not torch.equal(source, edit.target)
    assert (edit.meta.prompt, edit.meta.category) == (edit.prompt, "colour-alter")
    assert len(family.data("local")) == 2**31


def test_encode_and_decode(family: ShapesWorldFamily) -> None:
    edit = family.data("edit")[0]
    condition = family.encode([edit, family.data("t2i")[0]])
    assert condition.has_source.tolist() == [True, False]
    assert torch.equal(family.decode(condition.source)[0], edit.sources[0])


@pytest.mark.parametrize("student", [{}, {"init": "global"}, LORA], ids=["full", "full-from-expert", "lora"])
def test_one_update_moves_what_is_trained_and_nothing_else(
    family: ShapesWorldFamily, tmp_path: Path, student: dict[str, Any]
) -> None:
    before = family.full_model(student.get("init", "base")).state_dict()
    teacher = velocity(family, family.field("global"))
    module = train(family, tmp_path / "run", **student).student.module
    for name, parameter in module.named_parameters():
        assert parameter.requires_grad == ("lora_" in name or not student.get("kind"))
        if "lora_B" in name:
            assert parameter.abs().sum() > 0  # it starts at zero
        elif "lora_A" not in name:
            moved = not torch.equal(parameter, before[name.replace(".base_layer", "")])
            assert moved == parameter.requires_grad, name
    assert torch.equal(velocity(family, family.field("global")), teacher)


@pytest.mark.parametrize("student", [{}, LORA], ids=["full", "lora"])
def test_an_exported_student_is_read_back_to_the_bit(
    family: ShapesWorldFamily, tmp_path: Path, student: dict[str, Any]
) -> None:
    trained = train(family, tmp_path / "run", **student).student.field
    expected = velocity(family, trained)
    for name in (tmp_path / "run", tmp_path / "run" / STUDENT_FILE):
        assert torch.equal(velocity(ShapesWorldFamily(), family.field(str(name))), expected)
    assert not torch.equal(velocity(family, family.field("base")), expected)


def test_a_bfloat16_student_is_exported_in_float32(
    random_experts: Path, family: ShapesWorldFamily, tmp_path: Path
) -> None:
    half = ShapesWorldFamily(dtype=torch.bfloat16)
    module = train(half, tmp_path / "run").student.module
    assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}
    exported = load_file(tmp_path / "run" / STUDENT_FILE)
    assert {value.dtype for value in exported.values()} == {torch.float32}
    for name, parameter in module.named_parameters():
        assert torch.equal(exported[name].to(torch.bfloat16), parameter)
    fine = family.full_model("base").state_dict()
    assert any(not torch.equal(value, value.to(torch.bfloat16).float()) for value in exported.values())
    assert exported.keys() == fine.keys()
    expected = velocity(half, half.field("base"))
    torch.testing.assert_close(expected.float(), velocity(family, family.field("base")), rtol=0.1, atol=0.1)


def test_a_student_of_a_lora_starts_where_it_ended(family: ShapesWorldFamily, tmp_path: Path) -> None:
    """Its LoRA is merged into the weights that it was trained on, also down a chain of LoRAs."""
    first = write_lora(family, tmp_path / "first")
    second = write_lora(family, tmp_path / "second", init=str(first), seed=1)
    assert read_weights(str(second)).metadata["base"] == str(first)
    for path in (first, second):
        expected = velocity(family, family.field(str(path)))
        assert (expected - velocity(family, family.field("base"))).norm() > 0.1
        for config in (StudentConfig(init=str(path)), StudentConfig(init=str(path), **LORA)):
            student = family.student(config)
            torch.testing.assert_close(velocity(family, student.field), expected, rtol=1e-3, atol=1e-4)


def test_a_trained_student_needs_of_its_start_what_lies_frozen_under_it(
    family: ShapesWorldFamily, tmp_path: Path
) -> None:
    gone = str(tmp_path / "gone.safetensors")
    for config in (StudentConfig(init=gone), StudentConfig(init={gone: 1.0, "edit": 0.5})):
        restored = family.restored_student(config, {})
        assert all(parameter.requires_grad for parameter in restored.module.parameters())
    assert "gone.safetensors' is no file" in refusal(
        family.restored_student, StudentConfig(init=gone, **LORA), {}
    )


def test_a_student_may_start_from_several_experts(family: ShapesWorldFamily) -> None:
    base, local, glob = (family.full_model(name).state_dict() for name in ("base", "local", "global"))
    student = family.student(StudentConfig(init={"local": 1.0, "global": 0.5}))
    for name, start in student.module.state_dict().items():
        expected = base[name] + (local[name] - base[name]) + 0.5 * (glob[name] - base[name])
        torch.testing.assert_close(start, expected)
    assert all(parameter.requires_grad for parameter in student.module.parameters())
    with pytest.raises(ValueError, match=r"student\.init is .* a LoRA must name"):
        family.student(StudentConfig(init={"local": 1.0}, **LORA))


def test_lora_teachers_share_one_base(family: ShapesWorldFamily, tmp_path: Path) -> None:
    one, other = (write_lora(family, tmp_path / str(seed), seed=seed) for seed in (0, 1))
    first = family.teacher(Teacher("one", lora=str(one)))
    alone = velocity(family, first)
    second = family.teacher(Teacher("other", lora=str(other)))
    full = family.teacher(Teacher("run", checkpoint=str(one)))
    assert (
        isinstance(first, AdapterField)
        and isinstance(second, AdapterField)
        and isinstance(full, AdapterField)
    )
    pointers = [
        {name: p.data_ptr() for name, p in field.model.named_parameters() if "lora_" not in name}
        for field in (first, second, full)
    ]
    assert pointers[0] == pointers[1] == pointers[2]
    assert torch.equal(velocity(family, first), alone)
    assert torch.equal(velocity(family, full), alone)
    assert not torch.equal(velocity(family, second), alone)
    assert not any(parameter.requires_grad for parameter in first.model.parameters())


def test_scale_is_the_strength_of_a_lora(family: ShapesWorldFamily, tmp_path: Path) -> None:
    lora = str(write_lora(family, tmp_path / "lora"))
    base = velocity(family, family.teacher(Teacher("base")))
    none, half, whole, double = (
        velocity(family, family.teacher(Teacher("a", lora=lora, scale=scale)))
        for scale in (0.0, 0.5, 1.0, 2.0)
    )
    assert torch.equal(none, base)
    distances = [float((v - base).norm()) for v in (half, whole, double)]
    assert 0 < distances[0] < distances[1] < distances[2]


def test_a_lora_may_stand_on_another_expert(family: ShapesWorldFamily, tmp_path: Path) -> None:
    lora = str(write_lora(family, tmp_path / "lora"))
    moved = velocity(family, family.teacher(Teacher("a", checkpoint="global", lora=lora)))
    assert not torch.equal(moved, velocity(family, family.teacher(Teacher("a", lora=lora))))
    none = velocity(family, family.teacher(Teacher("a", checkpoint="global", lora=lora, scale=0.0)))
    assert torch.equal(none, velocity(family, family.field("global")))


def test_guidance_wraps_a_teacher(family: ShapesWorldFamily) -> None:
    plain, guided = family.teacher(Teacher("a")), family.teacher(Teacher("b", guidance_scale=3.0))
    assert isinstance(guided, GuidedField) and guided.scale == 3.0
    assert guided.field is plain


def test_teachers_of_the_same_weights_are_one_field(
    family: ShapesWorldFamily, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora = str(write_lora(family, tmp_path / "lora"))
    other = str(write_lora(family, tmp_path / "other", seed=1))
    loaded = []
    full_model = ShapesWorldFamily.full_model
    monkeypatch.setattr(
        ShapesWorldFamily, "full_model", lambda self, name: loaded.append(name) or full_model(self, name)
    )
    base = family.teacher(Teacher("base"))
    plain = velocity(family, base)
    fields = [
        family.teacher(teacher)
        for teacher in (
            Teacher("a", lora=lora),
            Teacher("b", checkpoint=lora),
            Teacher("c", checkpoint=str(tmp_path / "lora"), scale=1.0),
            Teacher("d", lora=lora, scale=0.5),
            Teacher("e", lora=other),
            Teacher("f"),
        )
    ]
    assert fields[0] is fields[1] is fields[2]
    assert fields[5] is base
    assert len({id(field) for field in fields}) == 4
    assert loaded == ["base"]
    assert torch.equal(velocity(family, base), plain)
    assert not torch.equal(velocity(family, fields[0]), plain)


def test_weights_that_were_written_anew_are_read_anew(family: ShapesWorldFamily, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    seen = []
    for name in ("base", "global"):
        write_weights(path, family.full_model(name).state_dict(), {"kind": "full"})
        seen.append(velocity(family, family.field(str(path))))
        assert torch.equal(seen[-1], velocity(family, family.field(name)))
    assert not torch.equal(*seen)


def test_models_are_frozen_and_their_own(family: ShapesWorldFamily) -> None:
    one, other = family.full_model("base"), family.full_model("base")
    assert not one.training and not any(parameter.requires_grad for parameter in one.parameters())
    with torch.no_grad():
        next(one.parameters()).add_(1.0)
    assert not torch.equal(next(one.parameters()), next(other.parameters()))


def refusal(call: Any, *arguments: Any, **named: Any) -> str:
    with pytest.raises(ValueError) as error:
        call(*arguments, **named)
    message = str(error.value)
    assert "\n" not in message and message.endswith((".", "?"))
    return message


def test_wrong_names_are_one_sentence(family: ShapesWorldFamily, tmp_path: Path) -> None:
    assert (
        refusal(family.data, "globl")
        == "data 'globl' is unknown to ShapesWorld; choose one of t2i, local, global, edit."
    )
    assert "did you mean 'local'?" in refusal(family.teacher, Teacher("a", checkpoint="locale"))
    assert "'gone' is no file" in refusal(family.student, StudentConfig(init="gone"))
    assert "targets names 'to_z'" in refusal(family.student, StudentConfig(kind="lora", targets=["to_z"]))
    lora = str(write_lora(family, tmp_path / "lora"))
    assert "weight_name='x'" in refusal(family.teacher, Teacher("a", lora=lora, weight_name="x"))


def test_wrong_weights_are_one_sentence(
    family: ShapesWorldFamily, random_experts: Path, tmp_path: Path
) -> None:
    whole = load_file(random_experts / "base.safetensors")
    for name, tensors, message in (
        (
            "short",
            {key: value for key, value in whole.items() if key != "proj_out.weight"},
            "1 tensors (first 'proj_out.weight')",
        ),
        ("extra", whole | {"a.b": torch.zeros(1)}, "1 tensors (first 'a.b')"),
        ("shape", whole | {"proj_out.weight": torch.zeros(48, 95)}, "1 tensors (first 'proj_out.weight')"),
    ):
        path = write_weights(tmp_path / f"{name}.safetensors", tensors, {"kind": "full"})
        assert f"differs from ShapesWorld's model in {message}" in refusal(family.field, str(path))
    assert "is no LoRA of ShapesWorld's model" in refusal(family.field, "base", lora="global")


def test_the_base_of_a_lora_is_looked_for_beside_it(
    family: ShapesWorldFamily, random_experts: Path, tmp_path: Path
) -> None:
    weights = read_weights(str(write_lora(family, tmp_path / "lora")))
    base = tmp_path / "lora" / "base.safetensors"
    base.write_bytes((random_experts / "edit.safetensors").read_bytes())
    about = weights.metadata | {"base": "base.safetensors"}
    moved = write_weights(tmp_path / "lora" / "moved.safetensors", weights.tensors, about)
    shipped = write_weights(random_experts / "moved.safetensors", weights.tensors, about)
    expected = velocity(family, family.field("edit", lora=str(moved)))
    assert torch.equal(velocity(family, family.field(str(moved))), expected)
    on_base = family.field(str(shipped))
    assert torch.equal(velocity(family, on_base), velocity(family, family.field(str(weights.path))))
    shipped.unlink()


def test_a_lora_without_its_base_is_one_sentence(family: ShapesWorldFamily, tmp_path: Path) -> None:
    weights = read_weights(str(write_lora(family, tmp_path / "lora")))
    path = write_weights(tmp_path / "orphan.safetensors", weights.tensors, {"kind": "lora"})
    assert "does not say which weights it is for" in refusal(family.field, str(path))
    family.field("base", lora=str(path))
    gone = write_weights(
        tmp_path / "x.safetensors", weights.tensors, {"kind": "lora", "base": "gone.safetensors"}
    )
    assert "gone.safetensors' is no file" in refusal(family.field, str(gone))
    path = write_weights(path, weights.tensors, {"kind": "lora", "base": str(path)})
    assert "is a LoRA on itself" in refusal(family.student, StudentConfig(init=str(path)))
    assert "is a LoRA on itself" in refusal(family.field, str(path))


def test_the_files_of_teachers_and_students(tmp_path: Path) -> None:
    family = ShapesWorldFamily()
    base, edit = (find_weights(name) for name in ("base", "edit"))
    assert family.files(Teacher("t2i")) == {"weights": base}
    lora = write_lora(family, tmp_path / "lora", init="edit")
    assert family.files(Teacher("x", lora=str(lora))) == {"weights": base, "lora": lora}
    beneath = family.files(Teacher("x", checkpoint=str(lora)))
    assert list(beneath.values()) == [lora, edit, base] and len(beneath) == 3
    started = family.files(StudentConfig(init={"local": 1.0, "global": 0.5}))
    assert {path.stem for path in started.values()} == {"base", "local", "global"}
    with pytest.raises(ValueError, match="is no file and no shipped expert"):
        family.files(Teacher("x", checkpoint="nowhere"))
