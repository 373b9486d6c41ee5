"""Compiled blocks compute what the others do, under every adapter, and are compiled a few times only."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import danceopd.training.trainer as trainer_module
from danceopd.flow import AdapterField, GuidedField, ModelField, draw_noise, replayed
from danceopd.training import (
    ConfigError,
    DanceOPDTrainer,
    Route,
    RunConfig,
    StudentConfig,
    Teacher,
    TrainConfig,
    check_run,
    compiling,
)
from tests.flow.recording import OnTheHost
from tests.training.blocks import BlockNet, BlocksFamily, Counting, predict, shared_model
from tests.training.runs import bits
from tests.training.tiny import SHAPE, TinyCondition

# torch's own look at every tensor that a block is compiled for.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
)

TEACHERS = [Teacher("base"), Teacher("one", lora="one", guidance_scale=2.0)]
ROUTES = [Route("base", data="5"), Route("one", data="4")]


@pytest.fixture(autouse=True)
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counting]:
    counting = Counting()
    monkeypatch.setattr(compiling, "BACKEND", counting)
    yield counting
    torch._dynamo.reset()


def make_trainer(folder: Path, routes: Any = ROUTES, **settings: Any) -> DanceOPDTrainer:
    defaults: dict[str, Any] = {
        "output_dir": folder,
        "max_steps": 5,
        "batch_size": 3,
        "gradient_accumulation_steps": 2,
        "num_rollout_steps": 4,
        "rollout_batch_size": 4,
        "learning_rate": 1e-2,
        "save_every": 2,
        "progress": False,
    }
    config = TrainConfig(**(defaults | settings))
    return DanceOPDTrainer(family=BlocksFamily(), teachers=TEACHERS, routes=routes, config=config)


def calls(model: BlockNet) -> Iterator[Callable[[], Tensor]]:
    """Every field, at widths that change, without gradient and with."""
    fields = [AdapterField(model, adapter, predict) for adapter in (None, "two", "student")]
    fields.append(GuidedField(fields[0], 2.0))  # type: ignore[arg-type]
    *teachers, student, guided = fields
    noise = draw_noise(range(5), SHAPE)
    sigma = torch.linspace(0.9, 0.1, 5)
    condition = TinyCondition(torch.randn(5, 4, generator=torch.Generator().manual_seed(0)))

    def velocity(field: Any, width: int) -> Tensor:
        return field(noise[:width], sigma[:width], condition.take(torch.arange(width)))

    def gradient(width: int) -> Tensor:
        model.zero_grad()
        velocity(student, width).square().mean().backward()
        return torch.cat([value.grad.flatten() for value in model.parameters() if value.grad is not None])

    for width in (4, 1, 5, 2):
        yield lambda width=width: gradient(width)
        for field in (student, *teachers, guided):
            yield lambda field=field, width=width: torch.no_grad()(velocity)(field, width)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_blocks_compute_the_same(checkpointing: bool, compiler: Counting) -> None:
    compiler.backend = "aot_eager" if checkpointing else "eager"
    model = shared_model()
    model.checkpointing = checkpointing
    wanted = [call() for call in calls(model)]
    compiling.compile_blocks([AdapterField(model, "student", predict)])
    counts = []
    for _ in range(2):
        found = [call() for call in calls(model)]
        for mine, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)
        counts.append(compiler.count)
    once, twice = counts
    # Three adapters without gradient; the student with it, where the first block's input needs none and the
    # others' does. Each for one sample and for several, of whatever number.
    assert once == 2 * (3 + 2)
    assert twice == once


def test_names_copies_and_unpickled_models_know_nothing_of_it() -> None:
    model = BlockNet()
    names = list(model.state_dict())
    compiling.compile_blocks([ModelField(model, predict)])
    assert list(model.state_dict()) == names
    assert [name for name, _ in model.named_parameters()] == names
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.blocks[0].outer.bias += 1.0
    arguments = draw_noise([1], SHAPE), torch.ones(1), torch.ones(1, 4)
    assert not torch.equal(twin(*arguments), model(*arguments))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_run_is_the_same_to_rounding_and_compiles_before_it_begins(
    checkpointing: bool, tmp_path: Path, compiler: Counting
) -> None:
    student = StudentConfig(gradient_checkpointing=checkpointing)
    counts: list[int] = []
    plain = make_trainer(tmp_path / "plain", student=student).train()
    assert compiler.count == 0
    trainer = make_trainer(tmp_path / "compiled", student=student, compile="blocks")
    update = trainer._one_update

    def counted() -> dict[str, Any]:
        counts.append(compiler.count)
        return update()

    trainer._one_update = counted  # type: ignore[method-assign]
    compiled = trainer.train()
    assert len(counts) == 5 and set(counts) == {compiler.count} != {0}
    assert plain.exported is not None and compiled.exported is not None
    wanted, found = load_file(plain.exported), load_file(compiled.exported)
    assert wanted.keys() == found.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5)
    assert bits(tmp_path / "plain", 4).keys() == bits(tmp_path / "compiled", 4).keys()


def test_a_compiled_run_that_is_continued_is_equal_bit_for_bit(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"routes": ROUTES[:1], "compile": "blocks"}
    make_trainer(tmp_path / "whole", **settings).train()
    make_trainer(tmp_path / "halved", **settings, max_steps=2).train()
    torch._dynamo.reset()  # as in another process
    make_trainer(tmp_path / "halved", **settings).train()
    assert bits(tmp_path / "whole", 5) == bits(tmp_path / "halved", 5)


def test_a_run_may_go_on_compiled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_trainer(tmp_path, ROUTES[:1], max_steps=2, progress=True).train()
    assert "compiling" not in capsys.readouterr().err
    assert make_trainer(tmp_path, ROUTES[:1], compile="blocks", progress=True).train().step == 5
    assert "compiling the models' blocks, which may take minutes" in capsys.readouterr().err


def _fails(graph: Any, examples: Any) -> Any:
    raise RuntimeError("no compiler here")


def test_what_cannot_be_compiled_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "BACKEND", _fails)
    with pytest.raises(ConfigError, match=r"^compile='blocks' does not work here \(.*no compiler here.*none"):
        make_trainer(tmp_path, compile="blocks").train()


def test_a_block_that_cannot_be_compiled_whole_is_told() -> None:
    class Printing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    model = nn.Module()
    model.blocks = nn.ModuleList([Printing()])
    compiling.compile_blocks([ModelField(model, predict)])
    with (
        pytest.raises(ConfigError, match=r"^compile='blocks' does not work here"),
        compiling.compile_failures_told("blocks"),
    ):
        model.blocks[0](torch.ones(2))


def test_more_versions_than_are_allowed_are_no_reason_to_run_uncompiled() -> None:
    model = shared_model()
    compiling.compile_blocks([AdapterField(model, "student", predict)])
    with (
        torch._dynamo.config.patch(cache_size_limit=2),
        pytest.raises(ConfigError, match="limit"),
        compiling.compile_failures_told("blocks"),
    ):
        for call in calls(model):
            call()


def test_errors_of_others_pass() -> None:
    with pytest.raises(RuntimeError, match=r"^mine$"), compiling.compile_failures_told("blocks"):
        raise RuntimeError("mine")


def test_models_without_blocks_and_devices_without_graphs_are_told(tmp_path: Path) -> None:
    field = ModelField(nn.Linear(1, 1), predict)
    with pytest.raises(ConfigError, match=r"^compile needs a model of repeated blocks, but Linear has"):
        compiling.compile_fields("blocks", field, [], torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"^compile='graphs' needs a CUDA device, got device='cpu'"):
        make_trainer(tmp_path, compile="graphs")
    assert not any(tmp_path.iterdir())
    with pytest.raises(ConfigError, match=r"^compile='graphs' is of no use to method sft"):
        TrainConfig(output_dir=tmp_path, method="sft", compile="graphs")
    with pytest.raises(ConfigError, match=r"^rollout_batch_size='auto' counts on .* give a number"):
        TrainConfig(output_dir=tmp_path, compile="graphs", rollout_batch_size="auto")
    with pytest.raises(ConfigError, match=r"^compile='blocks' and sharding='fsdp' do not go together"):
        TrainConfig(output_dir=tmp_path, compile="blocks", sharding="fsdp")


def test_what_a_check_records_is_compiled(
    tmp_path: Path, compiler: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []

    class Watched(OnTheHost):
        def __call__(self, work: Callable[[], Any]) -> tuple[Any, Callable[[], object]]:
            recording = super().__call__(work)
            counts.append(compiler.count)
            return recording

    def compiled(mode: str, student: Any, teachers: Any, device: Any) -> Any:
        compiling.compile_blocks([student])
        return replayed(student, Watched())

    monkeypatch.setattr(trainer_module, "compile_fields", compiled)
    config = RunConfig(
        family="blocks",
        teachers=TEACHERS,
        routes=ROUTES,
        student=StudentConfig(init="3"),  # the start is an adapter that is not 0
        output_dir=tmp_path / "run",
        num_rollout_steps=4,
        progress=False,
    )
    check_run(config, family=BlocksFamily())
    assert counts and 0 not in counts


@pytest.mark.gpu
def test_a_run_with_cuda_graphs_is_the_same_to_rounding(tmp_path: Path) -> None:
    def trained(**settings: Any) -> dict[str, Tensor]:
        family = BlocksFamily()
        family.device = torch.device("cuda")
        family.model.to("cuda")
        settings["output_dir"] = tmp_path / str(settings.get("compile"))
        config = TrainConfig(max_steps=3, batch_size=3, num_rollout_steps=4, progress=False, **settings)
        result = DanceOPDTrainer(family=family, teachers=TEACHERS, routes=ROUTES, config=config).train()
        assert result.exported is not None
        return load_file(result.exported)

    wanted, found = trained(), trained(compile="graphs")
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5)
