from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from danceopd.flow import GuidedField, ModelField, QueryLaw, SigmaGrid, VelocityField, draw_noise, rollout
from danceopd.methods import Batch
from danceopd.training.plan import Plan

from ..flow.toys import SHAPE, Recorder, ToyCondition, ToyModel, draw_condition, draw_sample, predict
from .updates import update

GRID = SigmaGrid.uniform(8)
SLOTS = 12


def batch(seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    route = torch.randint(0, 3, (SLOTS,), generator=generator)
    states = torch.randint(0, GRID.num_steps, (SLOTS, 1), generator=generator)
    return Batch(draw_sample(SLOTS), draw_condition(SLOTS), route, states)


def teachers() -> list[VelocityField]:
    plain = [ModelField(ToyModel(seed), predict) for seed in (1, 2, 3)]
    return [plain[0], GuidedField(plain[1], 2.5), plain[2]]


def gradients(model: nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def test_loss_and_gradient_are_those_of_the_paper() -> None:
    student, reference, slots = ToyModel(), ToyModel(), batch()
    result = update(ModelField(student, predict), teachers(), slots, GRID)

    losses = []
    for b in range(SLOTS):  # every sample alone, the whole rollout, the plain formula
        row = torch.tensor([b])
        condition, index = slots.condition.take(row), int(slots.states[b])
        sample = slots.noise[row]
        with torch.no_grad():
            for here, there in list(zip(GRID.values, GRID.values[1:], strict=False))[:index]:
                velocity = predict(reference, sample, torch.tensor([here]), condition)
                sample = sample + (there - here) * velocity
            sigma = torch.tensor([GRID.values[index]])
            target = teachers()[int(slots.route[b])](sample, sigma, condition)
        losses.append((predict(reference, sample, sigma, condition) - target).square().mean())
    torch.stack(losses).mean().backward()

    torch.testing.assert_close(result.loss, torch.stack(losses).detach(), rtol=1e-4, atol=1e-6)
    for found, expected in zip(gradients(student), gradients(reference), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(result.sigma, GRID.tensor()[slots.states])
    assert result.forwards == int(slots.states.sum())


@pytest.mark.parametrize(("micro", "rolled"), [(1, None), (5, 4), (None, 1), (12, 100), (100, 7)])
def test_chunks_change_memory_and_not_the_gradient(micro: int | None, rolled: int | None) -> None:
    whole, chunked = ToyModel(), ToyModel()
    expected = update(ModelField(whole, predict), teachers(), batch(), GRID)
    recorder = Recorder(ModelField(chunked, predict))
    result = update(recorder, teachers(), batch(), GRID, micro_batch_size=micro, rollout_batch_size=rolled)
    torch.testing.assert_close(result.loss, expected.loss, rtol=1e-4, atol=1e-6)
    for found, wanted in zip(gradients(chunked), gradients(whole), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    assert max(recorder.batches) <= max(micro or SLOTS, rolled or SLOTS)
    assert sum(recorder.batches) == result.forwards + SLOTS


@pytest.mark.parametrize("micro", [None, 4, 5])
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_a_student_that_is_its_teacher_has_exactly_zero_loss(micro: int | None, scale: float) -> None:
    model = ToyModel()
    field = GuidedField(ModelField(model, predict), scale)
    twin = GuidedField(ModelField(ToyModel(), predict), scale)
    for teacher in (field, twin):
        result = update(field, [teacher] * 3, batch(), GRID, micro_batch_size=micro)
        assert result.loss.tolist() == [0.0] * SLOTS
    assert not any(bool(gradient.any()) for gradient in gradients(model))


def test_gradient_reaches_the_student_only_and_adds_up() -> None:
    student, fields = ToyModel(), [ToyModel(seed) for seed in (1, 2, 3)]
    experts = [ModelField(model, predict) for model in fields]
    update(ModelField(student, predict), experts, batch(), GRID)
    once = [gradient.clone() for gradient in gradients(student)]
    update(ModelField(student, predict), experts, batch(), GRID)
    for twice, first in zip(gradients(student), once, strict=True):
        torch.testing.assert_close(twice, 2 * first)
    assert not any(gradients(model) for model in fields)


def test_the_same_batch_gives_the_same_bits() -> None:
    runs = [ToyModel(), ToyModel()]
    losses = [
        update(ModelField(m, predict), teachers(), batch(), GRID, micro_batch_size=5).loss for m in runs
    ]
    assert torch.equal(*losses)
    assert all(torch.equal(a, b) for a, b in zip(gradients(runs[0]), gradients(runs[1]), strict=True))


def test_few_teacher_calls_in_many_micro_batches() -> None:
    recorders = [Recorder(field) for field in teachers()]
    update(ModelField(ToyModel(), predict), recorders, batch(), GRID, micro_batch_size=4)
    # Sorted by route, three routes over three micro batches meet at most three plus two boundaries.
    assert sum(len(recorder.batches) for recorder in recorders) <= 5


def test_the_clean_state_is_refused() -> None:
    slots = batch()._replace(states=torch.full((SLOTS, 1), 8))
    with pytest.raises(ValueError, match=r"states must lie in 0 \.\. 7, but got 8"):
        update(ModelField(ToyModel(), predict), teachers(), slots, GRID)


def test_an_empty_micro_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="micro_batch_size must be at least 1, but got 0"):
        update(ModelField(ToyModel(), predict), teachers(), batch(), GRID, micro_batch_size=0)


class Gaussian:
    """The exact velocity field of data ~ N(mean, 0.25): E[eps - x0 | x], linear in x."""

    def __init__(self, mean: float) -> None:
        self.mean = mean

    def __call__(self, sample: Tensor, sigma: Tensor, condition: ToyCondition) -> Tensor:
        sigma = sigma[:, None, None]
        clean = 1.0 - sigma
        centred = (sample - clean * self.mean) / (0.25 * clean**2 + sigma**2)
        return sigma * centred - (self.mean + 0.25 * clean * centred)


def test_a_student_learns_two_gaussian_teachers() -> None:
    """Convergence: one network, the route told by its prompt, ends up on both distributions."""
    student, fields = ModelField(ToyModel(width=48), predict), [Gaussian(-2.0), Gaussian(1.5)]
    plan = Plan(0, (1.0, 1.0), (1, 1), QueryLaw(), 8, 0.0, slots_per_rank=48)
    optimizer = torch.optim.AdamW(student.model.parameters(), lr=5e-3, weight_decay=0.0)

    def slots(step: int) -> Batch:
        planned = plan.step(step)
        route = torch.tensor([slot.route for slot in planned])
        prompt = nn.functional.one_hot(route, 4).float()
        return Batch(
            draw_noise([slot.noise_seed for slot in planned], SHAPE),
            ToyCondition(prompt, torch.zeros_like(prompt)),
            route,
            torch.tensor([slot.states for slot in planned]),
        )

    losses = []
    for step in range(300):
        optimizer.zero_grad()
        losses.append(update(student, fields, slots(step), GRID).loss.mean().item())
        optimizer.param_groups[0]["lr"] = 5e-3 * (1.0 - step / 300)
        optimizer.step()
    assert sum(losses[-10:]) < sum(losses[:10]) / 10

    for route, mean in enumerate((-2.0, 1.5)):
        prompt = nn.functional.one_hot(torch.full((256,), route), 4).float()
        condition = ToyCondition(prompt, torch.zeros_like(prompt))
        clean = rollout(student, draw_sample(256, seed=9), SigmaGrid.uniform(32), condition).sample
        assert float(clean.mean()) == pytest.approx(mean, abs=0.2)
        assert float(clean.std()) == pytest.approx(0.5, abs=0.2)
