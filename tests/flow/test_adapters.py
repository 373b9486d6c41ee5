from __future__ import annotations

from collections.abc import Iterator

import peft
import pytest
import torch
from torch import nn

from danceopd.flow import AdapterField, ModelField, rollout, routed_velocity
from danceopd.flow.sigmas import SigmaGrid

from .toys import ToyModel, draw_condition, draw_sample, predict

# Several adapters on one model are the point here, and PEFT warns about each after the first.
pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")

SAMPLE, SIGMA, CONDITION = draw_sample(5), torch.linspace(0.1, 0.9, 5), draw_condition(5)


@pytest.fixture
def model() -> nn.Module:
    """A model with two adapters, of which the student's alone trains and rests active."""
    base = ToyModel()
    for name, targets in (("student", ["first", "second"]), ("teacher", ["second", "last"])):
        config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=targets, init_lora_weights=False)
        with torch.random.fork_rng():
            torch.manual_seed(len(name))
            base = peft.inject_adapter_in_model(config, base, adapter_name=name)
    for name, parameter in base.named_parameters():
        parameter.requires_grad_(".student." in name)
    for layer in tuner_layers(base):
        layer._active_adapter = ["student"]
    return base


def tuner_layers(model: nn.Module) -> Iterator[nn.Module]:
    return (module for module in model.modules() if hasattr(module, "_active_adapter"))


def resting_state(model: nn.Module) -> tuple[object, ...]:
    return (
        [(list(layer.active_adapters), layer.disable_adapters) for layer in tuner_layers(model)],
        [(name, parameter.requires_grad) for name, parameter in model.named_parameters()],
    )


def merged_copy(model: nn.Module, adapter: str | None) -> ToyModel:
    """An independent model with W + (alpha / r) B A written out by hand."""
    plain, state = ToyModel(), model.state_dict()
    with torch.no_grad():
        for name in ("first", "second", "last"):
            key = f"{name}.lora_A.{adapter}.weight"
            if key in state:
                product = state[key.replace("lora_A", "lora_B")] @ state[key]
                getattr(plain, name).weight += 2.0 * product
    return plain


@pytest.mark.parametrize("adapter", ["student", "teacher", None])
@torch.no_grad()
def test_each_adapter_is_its_own_field(model: nn.Module, adapter: str | None) -> None:
    velocity = AdapterField(model, adapter, predict)(SAMPLE, SIGMA, CONDITION)
    expected = ModelField(merged_copy(model, adapter), predict)(SAMPLE, SIGMA, CONDITION)
    torch.testing.assert_close(velocity, expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_the_fields_differ(model: nn.Module) -> None:
    names = ("student", "teacher", None)
    student, teacher, base = (AdapterField(model, name, predict)(SAMPLE, SIGMA, CONDITION) for name in names)
    assert (
        min(float((a - b).abs().max()) for a, b in ((student, teacher), (teacher, base), (student, base)))
        > 1e-2
    )


def test_the_fields_share_their_storage(model: nn.Module) -> None:
    pointers = [parameter.data_ptr() for parameter in model.parameters()]
    fields = [AdapterField(model, name, predict) for name in ("student", "teacher", None)]
    assert all(field.model is model for field in fields)
    for field in fields:
        field(SAMPLE, SIGMA, CONDITION)
    assert [parameter.data_ptr() for parameter in model.parameters()] == pointers


@pytest.mark.parametrize("adapter", ["student", "teacher", None])
def test_a_call_leaves_no_trace(model: nn.Module, adapter: str | None) -> None:
    before = resting_state(model)
    AdapterField(model, adapter, predict)(SAMPLE, SIGMA, CONDITION)
    assert resting_state(model) == before


def test_a_disabled_model_stays_disabled(model: nn.Module) -> None:
    for layer in tuner_layers(model):
        layer._disable_adapters = True
    before = resting_state(model)
    AdapterField(model, "teacher", predict)(SAMPLE, SIGMA, CONDITION)
    assert resting_state(model) == before


@pytest.mark.parametrize("adapter", ["teacher", None])
def test_an_exception_leaves_no_trace(model: nn.Module, adapter: str | None) -> None:
    def broken(*_: object) -> torch.Tensor:
        raise RuntimeError("out of memory")

    before = resting_state(model)
    with pytest.raises(RuntimeError, match="out of memory"):
        AdapterField(model, adapter, broken)(SAMPLE, SIGMA, CONDITION)
    assert resting_state(model) == before


def test_gradient_flows_to_the_own_adapter_only(model: nn.Module) -> None:
    student, teacher = AdapterField(model, "student", predict), AdapterField(model, "teacher", predict)
    velocity = student(SAMPLE, SIGMA, CONDITION)
    with torch.no_grad():
        target = teacher(SAMPLE, SIGMA, CONDITION)
    # Backward runs after the teacher's call: the graph must still be the student's.
    (velocity - target).square().mean().backward()
    with_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert with_gradient == {name for name, _ in model.named_parameters() if ".student." in name}

    twin = ToyModel()
    state = model.state_dict()
    factor = state["first.lora_A.student.weight"].clone().requires_grad_()
    delta = {"first": 2.0 * state["first.lora_B.student.weight"] @ factor}
    delta["second"] = 2.0 * state["second.lora_B.student.weight"] @ state["second.lora_A.student.weight"]
    weights = {name: value.detach() for name, value in twin.named_parameters()}
    for name, change in delta.items():
        weights[f"{name}.weight"] = weights[f"{name}.weight"] + change
    inputs = (SAMPLE, SIGMA, CONDITION.prompt, CONDITION.source)
    (torch.func.functional_call(twin, weights, inputs) - target).square().mean().backward()
    found = model.get_parameter("first.lora_A.student.weight").grad
    torch.testing.assert_close(found, factor.grad, rtol=1e-4, atol=1e-7)


@torch.no_grad()
def test_adapters_route_and_roll_out_like_separate_models(model: nn.Module) -> None:
    names = ("student", "teacher", None)
    shared = [AdapterField(model, name, predict) for name in names]
    separate = [ModelField(merged_copy(model, name), predict) for name in names]
    index = torch.tensor([1, 0, 2, 1, 0])
    torch.testing.assert_close(
        routed_velocity(shared, index, SAMPLE, SIGMA, CONDITION),
        routed_velocity(separate, index, SAMPLE, SIGMA, CONDITION),
        rtol=1e-5,
        atol=1e-6,
    )
    grid = SigmaGrid.uniform(4)
    for one, other in zip(shared, separate, strict=True):
        torch.testing.assert_close(
            rollout(one, SAMPLE, grid, CONDITION).sample, rollout(other, SAMPLE, grid, CONDITION).sample
        )


def test_weights_saved_beside_the_adapter_switch_with_it() -> None:
    config = peft.LoraConfig(r=2, target_modules=["first"], modules_to_save=["last"], init_lora_weights=False)
    model = peft.get_peft_model(ToyModel(), config, adapter_name="expert")
    with torch.no_grad():
        model.base_model.model.last.modules_to_save["expert"].bias.fill_(3.0)
    expert = AdapterField(model, "expert", predict)(SAMPLE, SIGMA, CONDITION)
    base = AdapterField(model, None, predict)(SAMPLE, SIGMA, CONDITION)
    torch.testing.assert_close(base, ModelField(ToyModel(), predict)(SAMPLE, SIGMA, CONDITION))
    assert float((expert - base).detach().mean()) > 1.0


@torch.no_grad()
@pytest.mark.parametrize("wrapped", [False, True])
def test_an_adapter_added_later_is_kept_out_of_older_fields(wrapped: bool) -> None:
    inner = ToyModel()
    model: nn.Module = inner
    if wrapped:  # no record of PEFT on the outer module

        class Outer(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, *arguments: torch.Tensor) -> torch.Tensor:
                return self.inner(*arguments)

        model = Outer()
    fields, before = {None: AdapterField(model, None, predict)}, {}
    for name, target in (("one", "first"), ("two", "last")):
        before = {known: field(SAMPLE, SIGMA, CONDITION) for known, field in fields.items()}
        config = peft.LoraConfig(r=2, target_modules=[target], init_lora_weights=False)
        peft.inject_adapter_in_model(config, inner, adapter_name=name)
        for known, velocity in before.items():
            assert torch.equal(fields[known](SAMPLE, SIGMA, CONDITION), velocity)
        fields[name] = AdapterField(model, name, predict)
        assert not torch.equal(fields[name](SAMPLE, SIGMA, CONDITION), before[None])


def test_a_model_is_searched_once_per_change(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    walks, modules = [], nn.Module.modules
    field = AdapterField(model, "teacher", predict)
    monkeypatch.setattr(nn.Module, "modules", lambda self: walks.append(self) or modules(self))
    for _ in range(3):
        field(SAMPLE, SIGMA, CONDITION)
    assert walks == []


def test_an_unknown_adapter_is_refused(model: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"\(student, teacher\), but got 'realism'; inject it first"):
        AdapterField(model, "realism", predict)
    with pytest.raises(ValueError, match="it has none"):
        AdapterField(ToyModel(), "student", predict)


def test_a_model_without_adapters_is_its_own_base() -> None:
    velocity = AdapterField(ToyModel(), None, predict)(SAMPLE, SIGMA, CONDITION)
    assert torch.equal(velocity, ModelField(ToyModel(), predict)(SAMPLE, SIGMA, CONDITION))


def test_a_merged_adapter_is_refused(model: nn.Module) -> None:
    model.second.merge(adapter_names=["teacher"])  # type: ignore[operator, union-attr]
    before = resting_state(model)
    with pytest.raises(ValueError, match="teacher is merged into the base weights; call unmerge_adapter"):
        AdapterField(model, "student", predict)(SAMPLE, SIGMA, CONDITION)
    assert resting_state(model) == before
