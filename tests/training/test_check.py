"""The check of a run, on the tiny family."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from danceopd.families import Footprint, Student
from danceopd.flow import QUERY_LAWS, ModelField
from danceopd.pictures import write_table
from danceopd.settings import ConfigError
from danceopd.training import CheckedRun, DanceOPDTrainer, Route, RunConfig, StudentConfig, Teacher, check_run
from danceopd.training.check import cost, resources
from danceopd.training.check.report import bytes_text, time_text
from danceopd.training.checkpoint import list_checkpoints
from danceopd.training.measuring import peak_bytes
from tests.training.tiny import SHAPE, TinyCondition, TinyFamily, TinyNet

CPU = torch.device("cpu")


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., RunConfig]:
    def make(**settings: Any) -> RunConfig:
        defaults: dict[str, Any] = {
            "family": "tiny",
            "output_dir": tmp_path / "run",
            "teachers": [Teacher("one", checkpoint="1"), Teacher("two", guidance_scale=2.0)],
            "routes": [Route("one", data="7"), Route("two", data="5", weight=2.0)],
            "max_steps": 6,
            "batch_size": 3,
            "gradient_accumulation_steps": 2,
            "num_rollout_steps": 4,
            "save_every": 2,
            "progress": False,
        }
        return RunConfig(**(defaults | settings))

    return make


def checked(config: RunConfig, **options: Any) -> CheckedRun:
    return check_run(config, family=TinyFamily(getattr(torch, config.dtype)), **options)


def test_a_run_that_may_start(make_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    told: list[str] = []
    report, _ = checked(make_config(), tell=lambda step, line: told.append(step))
    assert told == ["config", "data", "resources", "teachers", "self-test", "estimate"]
    assert [(entry.route, entry.rows, entry.shapes) for entry in report.rows] == [
        ("one", 7, {"3x4x4": 7}),
        ("two", 5, {"3x4x4": 5}),
    ]
    assert report.self_test.losses == {"one": 0.0, "two": 0.0}
    assert report.self_test.start is True
    one, two = report.teachers
    assert (one.what, two.what) == ("checkpoint", "guidance on the base")
    assert one.change is not None and one.change > 0.1 and one.student_distance > 0.1
    assert two.change is not None and two.change == pytest.approx(two.student_distance, rel=0.5)
    assert all("weights are untrained" in warning for warning in report.warnings)
    assert not list(tmp_path.iterdir())


def test_a_check_leaves_no_trace_in_the_training(
    make_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    results = []
    for name in ("checked", "plain"):
        config = make_config(output_dir=tmp_path / name, dtype="bfloat16", ema_decay=0.9)
        family = TinyFamily(torch.bfloat16)
        trainer = DanceOPDTrainer(
            family=family, teachers=config.teachers, routes=config.routes, config=config
        )
        if name == "checked":
            trainer = check_run(config, family=family, samples=tmp_path / "samples").trainer
        exported = trainer.train().exported
        assert exported is not None
        results.append(load_file(exported))
    one, other = results
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Counts(NamedTuple):
    forwards: list[int]
    with_gradient: list[int]


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counts]:
    """Samples that pass through any net."""
    counts, forward = Counts([], []), TinyNet.forward

    def counting(self: TinyNet, sample: Tensor, sigma: Tensor, embedding: Tensor) -> Tensor:
        counts.forwards.append(len(sample))
        if torch.is_grad_enabled() and self.inner.weight.requires_grad:
            counts.with_gradient.append(len(sample))
        return forward(self, sample, sigma, embedding)

    monkeypatch.setattr(TinyNet, "forward", counting)
    yield counts
    monkeypatch.undo()


@pytest.mark.parametrize("student_guidance", [1.0, 2.0])
@pytest.mark.parametrize("teacher_guidance", [1.0, 2.0])
@pytest.mark.parametrize("index", [0, 3])
def test_forwards_of_an_update_are_counted_exactly(
    make_config: Callable[..., RunConfig],
    monkeypatch: pytest.MonkeyPatch,
    student_guidance: float,
    teacher_guidance: float,
    index: int,
) -> None:
    config = make_config(
        teachers=[Teacher("one", checkpoint="1", guidance_scale=teacher_guidance)],
        routes=[Route("one", data="7")],
        student_guidance_scale=student_guidance,
        query={"index": index},
    )
    report, trainer = checked(config)
    trainer.prepare()
    with counted(monkeypatch) as counts:
        trainer._one_update()
    assert sum(counts.forwards) == report.estimate.forwards
    assert sum(counts.with_gradient) == report.estimate.backwards


def test_the_mean_of_the_law_is_that_of_the_plan(make_config: Callable[..., RunConfig]) -> None:
    report, trainer = checked(make_config(query="middle"))
    drawn = [slot for step in range(300) for slot in trainer.plan.step(step)]
    guided = sum(slot.route == 1 for slot in drawn)
    forwards = (sum(slot.states[-1] for slot in drawn) + 2 * len(drawn) + guided) / 300
    assert report.estimate.forwards == pytest.approx(forwards, rel=0.02)


def test_seconds_are_those_of_a_forward_times_how_many(
    make_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A call of the field costs what it costs, with both branches of guidance in it.
    monkeypatch.setattr(cost, "_seconds", lambda field, batch, size: 1.0 if field is student[0] else 0.5)
    student: list[Any] = []
    guided = TinyFamily.guided

    def note(self: TinyFamily, field: Any, scale: float) -> Any:
        result = guided(self, field, scale)
        if scale == 3.0:
            student.append(result)
        return result

    monkeypatch.setattr(TinyFamily, "guided", note)
    estimate = checked(make_config(student_guidance_scale=3.0)).report.estimate
    way = QUERY_LAWS["low"].expected_forwards(4)
    assert estimate.seconds_per_update == pytest.approx(6 * (way + 1 + 2 + 0.5))
    assert estimate.hours == pytest.approx(estimate.seconds_per_update * 6 / 3600)
    assert estimate.seconds_per_forward == {"one": 0.5, "two": 0.5}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_bytes_are_what_is_there(
    make_config: Callable[..., RunConfig], tmp_path: Path, dtype: str, ema_decay: float | None
) -> None:
    report, trainer = checked(make_config(dtype=dtype, ema_decay=ema_decay))
    memory, module = report.estimate.memory, trainer.student.module
    parameters = list(module.parameters())
    assert memory.student == sum(parameter.nbytes for parameter in parameters)
    assert memory.teachers == memory.base == memory.student  # one other checkpoint, and the base
    assert memory.adapters == 0
    trainer.train()
    masters = trainer.weights.masters.values()
    own = {id(parameter) for parameter in parameters}
    assert memory.masters == sum(master.nbytes for master in masters if id(master) not in own)
    kept = trainer.weights.optimizer_tensors()
    assert memory.optimizer == sum(value.nbytes for name, value in kept.items() if "exp_avg" in name)
    assert memory.gradients == sum(master.nbytes for master in masters)
    assert memory.ema == (sum(mean.nbytes for mean in trainer.mean.mean.values()) if trainer.mean else 0)

    # Two checkpoints are kept, a third is whole before the oldest goes, and the student is exported.
    folders = list_checkpoints(tmp_path / "run/checkpoints")
    files = [file for folder in folders for file in folder.glob("*.safetensors")]
    values = [entry for file in files for entry in load_file(file).items()]
    stored = sum(value.nbytes for name, value in values if not name.endswith(".step"))
    assert len(folders) == 2
    assert report.resources.checkpoints == stored * 3 // 2 + memory.gradients


def test_activations_grow_with_the_batch(make_config: Callable[..., RunConfig]) -> None:
    one, four = (
        checked(make_config(batch_size=size, gradient_accumulation_steps=1)).report.estimate.memory
        for size in (1, 4)
    )
    assert four.activations == 4 * one.activations
    # At the least what tanh keeps, at the most a few copies of everything that flows.
    values = 2 * 48 + 5 + 4 * 8
    assert 8 * 4 < one.activations < 8 * 4 * values


def test_peak_bytes_are_those_alive_at_once() -> None:
    x = torch.ones(1000)

    def work() -> None:
        kept = x * 2
        for _ in range(5):
            kept = kept + 1  # the one before is freed

    assert peak_bytes(work, CPU) == 2 * 4000
    assert peak_bytes(lambda: x.view(10, 100).t(), CPU) == 0
    weight = torch.ones(1000, requires_grad=True)

    def backward() -> None:
        (weight.tanh().tanh()).sum().backward()

    assert 2 * 4000 < peak_bytes(backward, CPU) <= 5 * 4000


@pytest.mark.parametrize(
    ("checkpoint", "words"),
    [
        ("0", "teacher 'one' is a no-op: its checkpoint '0' changes nothing"),
        ("nan", "teacher 'one' returns a velocity that is not finite"),
    ],
)
def test_teachers_that_teach_nothing(
    make_config: Callable[..., RunConfig], tmp_path: Path, checkpoint: str, words: str
) -> None:
    teachers = [Teacher("one", checkpoint=checkpoint), Teacher("two")]
    with pytest.raises(ConfigError, match=words):
        checked(make_config(teachers=teachers), samples=tmp_path / "samples")
    assert not list(tmp_path.iterdir())


def test_guidance_that_changes_nothing(
    make_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TinyCondition, "unconditional", lambda self: self)
    with pytest.raises(ConfigError, match=r"teacher 'two' is a no-op: guidance_scale=2"):
        checked(make_config())


def test_a_base_that_is_not_in_memory_is_not_loaded(make_config: Callable[..., RunConfig]) -> None:
    teachers = [Teacher("one", checkpoint="1"), Teacher("two", checkpoint="2")]
    report, _ = checked(make_config(teachers=teachers, student=StudentConfig(init="1")))
    assert [teacher.change for teacher in report.teachers] == [None, None]
    assert report.self_test.start is None and report.estimate.memory.base == 0
    assert report.teachers[0].student_distance == 0.0


def test_a_field_that_changes_its_mind(
    make_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = TinyFamily.teacher

    def forgetful(self: TinyFamily, asked: Teacher) -> Any:
        field = teacher(self, asked)
        return lambda *inputs: torch.nn.functional.dropout(field(*inputs), 0.1)

    monkeypatch.setattr(TinyFamily, "teacher", forgetful)
    with pytest.raises(ConfigError, match=r"a student that is teacher 'one' has loss .* where it must be 0"):
        checked(make_config())


def test_a_student_that_does_not_start_where_it_should(
    make_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    student = TinyFamily.student

    def moved(self: TinyFamily, config: StudentConfig, teachers: Any = ()) -> Student:
        made = student(self, config, teachers)
        with torch.no_grad():
            made.module.outer.bias.add_(1e-3)  # type: ignore[operator, union-attr]
        assert isinstance(made.field, ModelField)
        return made

    monkeypatch.setattr(TinyFamily, "student", moved)
    with pytest.raises(ConfigError, match="away from the base although"):
        checked(make_config())


def test_too_little_disk_or_memory_is_told_before_models_are_made(
    make_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def made(*_: object) -> None:
        raise AssertionError("a model was made")

    monkeypatch.setattr(TinyFamily, "student", made)
    monkeypatch.setattr(TinyFamily, "teacher", made)
    usage = type(shutil.disk_usage("/"))
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda _: usage(10**6, 10**6, 5000))
        with pytest.raises(ConfigError, match=r"output_dir '.*/run' needs 34.6 kB .* but has 5 kB free"):
            checked(make_config())
    with monkeypatch.context() as small:
        small.setattr(resources, "free_memory", lambda _: 1000)
        with pytest.raises(ConfigError, match=r"take 20.7 kB at least, but device 'cpu' has 1 kB free"):
            checked(make_config())
    with monkeypatch.context() as many:
        many.setattr(TinyFamily, "footprint", lambda *_: Footprint(0, elsewhere=2**60, encoders=0, trained=0))
        with pytest.raises(ConfigError, match=r"the offloaded teachers take 1152922 TB"):
            checked(make_config())
    assert not list(tmp_path.iterdir())


def test_the_cache_needs_room_beside_the_checkpoints(
    make_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type(shutil.disk_usage("/"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2 * 10**6, 10**6, 10**6))
    config = make_config()
    there = resources.check_resources(Footprint(0, elsewhere=0, encoders=0, trained=1000), config, CPU)
    resources.check_cache(there, config, there.free_disk - there.checkpoints)
    with pytest.raises(ConfigError, match=r"the cache '.*/run/cache' needs about .* beside the checkpoints"):
        resources.check_cache(there, config, there.free_disk - there.checkpoints + 1)


def test_what_may_go_wrong_is_a_warning(
    make_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = sum(parameter.numel() for parameter in TinyNet(0, torch.float32).parameters())
    monkeypatch.setattr(
        TinyFamily, "footprint", lambda *_: Footprint(0, elsewhere=0, encoders=10**18, trained=numbers)
    )
    monkeypatch.setattr(cost, "_activations", lambda trainer, batch: 10**18)
    first, second, *_ = checked(make_config()).report.warnings
    assert first.startswith("training will take about 3000000 TB beside the models, but cpu has")
    assert second.startswith("encoding the rows takes about 1000000 TB beside the models, but cpu has")


@pytest.mark.parametrize(("init", "told"), [("3", True), ({"3": 0.5}, True), ("2", False)])
def test_guidance_that_a_start_cannot_hold_is_a_warning(
    make_config: Callable[..., RunConfig], init: Any, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TinyFamily, "files", lambda *_: {})
    student = TinyFamily.student
    monkeypatch.setattr(TinyFamily, "student", lambda self, *_: student(self, StudentConfig(init="3")))
    teachers = [Teacher("one", checkpoint="1"), Teacher("3", checkpoint="3", guidance_scale=4.5)]
    routes = [Route("one", data="7"), Route("3", data="5")]
    config = make_config(teachers=teachers, routes=routes, student=StudentConfig(init=init, kind="full"))
    found = [line for line in checked(config).report.warnings if "student.init" in line]
    assert len(found) == told
    assert all(line.startswith("student.init names '3', a teacher with guidance_scale=4.5") for line in found)


def test_samples_are_a_table_with_labels(make_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    report, _ = checked(make_config(), samples=tmp_path / "samples")
    assert report.samples == str(tmp_path / "samples/samples.png")
    with Image.open(report.samples) as picture:
        # base, teacher and student of two routes, each pixel 64 wide; no column for sources, which are none
        assert picture.size == (3 * (256 + 8) + 8, 2 * (256 + 20 + 8) + 28)
    assert not (tmp_path / "run").exists()


def test_a_table_takes_images_of_any_size_and_text_of_any_script(tmp_path: Path) -> None:
    small, wide = torch.zeros(3, 4, 8, dtype=torch.uint8), torch.zeros(3, 300, 4000, dtype=torch.uint8)
    rows = [("赤い円 " + "x" * 10_000, [small, None]), ("two\nlines", [None, wide])]
    path = write_table(tmp_path / "x.png", ["a", "b"], rows)
    with Image.open(path) as picture:
        assert picture.size == (2 * (1024 + 8) + 8, 128 + 77 + 2 * 28 + 28)
        assert picture.getpixel((8 + 10, 24 + 16 + 10)) == (0, 0, 0)


def test_texts_of_sizes_and_times() -> None:
    assert [bytes_text(count) for count in (0, 999, 1500, 24_400_000_000)] == [
        "0 bytes",
        "999 bytes",
        "1.5 kB",
        "24.4 GB",
    ]
    assert [time_text(seconds) for seconds in (0.0123, 1, 90, 7200, 86400 * 3)] == [
        "12.3 ms",
        "1 s",
        "1.5 min",
        "2 h",
        "3 days",
    ]


def test_the_probe_is_of_the_common_shape() -> None:
    from danceopd.training.check.probe import _choose

    assert _choose({SHAPE: [5, 7, 9], (1, 2, 2): [0]}) == [5, 7]
    assert _choose({SHAPE: range(2**31)}) == [0, 2**30]
    assert _choose({SHAPE: [3]}) == [3]
