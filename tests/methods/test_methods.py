"""Every method against its formula in plain torch, one sample and one state at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from danceopd.flow import ModelField, SigmaGrid, VelocityField, stochastic_rollout
from danceopd.methods import METHODS, SFT, Batch, DanceOPD, DiffusionOPD, FlowOPD, Method, OffPolicy, Soft

from ..flow.toys import SHAPE, Recorder, ToyCondition, ToyModel, draw_condition, draw_sample, predict
from .updates import update

GRID = SigmaGrid.shifted(5, 2.0)
SLOTS = 6
STUDENT_SEED = 0


def teachers() -> list[VelocityField]:
    return [ModelField(ToyModel(seed).requires_grad_(False), predict) for seed in (1, 2)]


def batch(states: Sequence[Sequence[int]], mask: Tensor | None = None) -> Batch:
    return Batch(
        draw_sample(SLOTS),
        draw_condition(SLOTS),
        torch.tensor([0, 1, 1, 0, 1, 0]),
        torch.tensor(states),
        seed=torch.arange(SLOTS),
        offset=torch.linspace(0.0, 0.9, SLOTS),
        clean=draw_sample(SLOTS, seed=5),
        mask=mask,
    )


ONE = [[3], [0], [4], [1], [2], [3]]
ALL = [list(range(5))] * SLOTS
TWO = [[0, 3], [1, 2], [3, 4], [0, 1], [2, 4], [1, 3]]


def path(student: VelocityField, slots: Batch, b: int) -> list[Tensor]:
    """States 0 .. N of one sample, without gradient."""
    row = torch.tensor([b])
    sample, condition = slots.noise[row], slots.condition.take(row)
    seen = [sample]
    with torch.no_grad():
        for here, there in zip(GRID.values, GRID.values[1:], strict=False):
            sample = sample + (there - here) * student(sample, torch.tensor([here]), condition)
            seen.append(sample)
    return seen


def on_policy_loss(
    student: VelocityField,
    slots: Batch,
    weight: Callable[[int], float],
    target: Callable[[int, Tensor, Tensor, ToyCondition], Tensor],
) -> Tensor:
    losses = []
    for b in range(SLOTS):
        states, condition = path(student, slots, b), slots.condition.take(torch.tensor([b]))
        for k in slots.states[b].tolist():
            sigma = torch.tensor([GRID.values[k]])
            wanted = target(b, states[k], sigma, condition)
            apart = (student(states[k], sigma, condition) - wanted).square()
            if slots.mask is not None:
                apart = apart * slots.mask[b]
            losses.append(weight(k) * apart.mean())
    return torch.stack(losses).sum() / SLOTS


def own_teacher(slots: Batch) -> Callable[[int, Tensor, Tensor, ToyCondition], Tensor]:
    fields = teachers()
    return lambda b, sample, sigma, condition: fields[int(slots.route[b])](sample, sigma, condition)


def mean_of_teachers(b: int, sample: Tensor, sigma: Tensor, condition: ToyCondition) -> Tensor:
    return torch.stack([field(sample, sigma, condition) for field in teachers()]).mean(dim=0)


STEPS = [there - here for here, there in zip(GRID.values, GRID.values[1:], strict=False)]
MASK = torch.rand(SLOTS, 1, 4, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("micro", [None, 1, 4])
@pytest.mark.parametrize(
    ("method", "states", "weight", "mask"),
    [
        (DanceOPD(), ONE, lambda k: 1.0, None),
        (DanceOPD(), ONE, lambda k: 1.0, MASK),
        (DanceOPD(states=2), TWO, lambda k: 0.5, None),
        (DanceOPD(states=2, weighting="sigma"), TWO, lambda k: GRID.values[k] / 2, MASK),
        (
            DanceOPD(weighting="kl"),
            ONE,
            lambda k: STEPS[k] ** 2 / (sum(step**2 for step in STEPS) / 5),
            None,
        ),
        (DiffusionOPD(), ALL, lambda k: STEPS[k] ** 2 / 2, None),
        (Soft(), ONE, lambda k: 1.0, None),
        (Soft(weights={"0": 0.5, "1": 0.5}), ONE, lambda k: 1.0, MASK),
    ],
    ids=["danceopd", "masked", "two states", "two by sigma", "by kl", "diffusionopd", "soft", "soft masked"],
)
def test_on_policy_methods_follow_their_formula(
    method: Method,
    states: list[list[int]],
    weight: Callable[[int], float],
    mask: Tensor | None,
    micro: int | None,
) -> None:
    slots = batch(states, mask)
    student, reference = ToyModel(STUDENT_SEED), ToyModel(STUDENT_SEED)
    result = update(
        ModelField(student, predict), teachers(), slots, GRID, method,
        micro_batch_size=micro, rollout_batch_size=micro,
    )  # fmt: skip
    target = mean_of_teachers if isinstance(method, Soft) else own_teacher(slots)
    expected = on_policy_loss(ModelField(reference, predict), slots, weight, target)
    expected.backward()
    assert float(result.loss.mean()) == pytest.approx(float(expected.detach()), rel=1e-4)
    same_gradients(student, reference)
    assert torch.equal(result.sigma, GRID.tensor()[slots.states])
    assert result.error.shape == slots.states.shape and float(result.error.min()) > 0
    # A rollout goes as far as its last state and no further.
    assert result.forwards == int(slots.states[:, -1].sum())


@pytest.mark.parametrize("mask", [None, MASK])
def test_off_policy_matches_teachers_at_noised_data(mask: Tensor | None) -> None:
    slots = batch(ONE, mask)
    student, reference = ToyModel(STUDENT_SEED), ToyModel(STUDENT_SEED)
    recorder = Recorder(ModelField(student, predict))
    result = update(recorder, teachers(), slots, GRID, OffPolicy())
    sigma = GRID.tensor()[slots.states][:, 0]
    sample = (1 - sigma)[:, None, None] * slots.clean + sigma[:, None, None] * slots.noise
    wanted = torch.cat(
        [own_teacher(slots)(b, sample[[b]], sigma[[b]], slots.condition.take(torch.tensor([b])))
         for b in range(SLOTS)]
    )  # fmt: skip
    apart = (predict(reference, sample, sigma, slots.condition) - wanted).square()
    expected = (apart if mask is None else apart * mask).mean()
    expected.backward()
    assert float(result.loss.mean()) == pytest.approx(float(expected.detach()), rel=1e-4)
    same_gradients(student, reference)
    assert result.forwards == 0 and recorder.batches == [SLOTS]


def test_sft_learns_the_data_between_the_levels_of_the_grid() -> None:
    slots = batch(ONE)
    student, reference = ToyModel(STUDENT_SEED), ToyModel(STUDENT_SEED)
    result = update(ModelField(student, predict), [], slots, GRID, SFT())
    levels = GRID.tensor()
    here, there = levels[slots.states][:, 0], levels[slots.states + 1][:, 0]
    sigma = here + slots.offset * (there - here)
    torch.testing.assert_close(result.sigma[:, 0], sigma)
    assert not set(result.sigma[1:].flatten().tolist()) & set(levels.tolist())
    sample = (1 - sigma)[:, None, None] * slots.clean + sigma[:, None, None] * slots.noise
    velocity = predict(reference, sample, sigma, slots.condition)
    expected = (velocity - (slots.noise - slots.clean)).square().mean()
    expected.backward()
    assert float(result.loss.mean()) == pytest.approx(float(expected.detach()), rel=1e-4)
    same_gradients(student, reference)


@pytest.mark.parametrize("micro", [None, 7])
@pytest.mark.parametrize("anchor", [None, "1"])
def test_flow_opd_follows_its_formula(anchor: str | None, micro: int | None) -> None:
    weight = None if anchor is None else 0.3
    method = FlowOPD(group_size=2, anchor=anchor, anchor_weight=weight, clip_range=0.2, noise_level=0.5)
    slots = batch(ALL)
    student, reference = ToyModel(STUDENT_SEED), ToyModel(STUDENT_SEED)
    field = ModelField(reference, predict)
    walked = stochastic_rollout(field, slots.noise, GRID, slots.condition, slots.seed, noise_level=0.5)
    fields, losses, divergences = teachers(), [], []
    for b in range(SLOTS):
        condition = slots.condition.take(torch.tensor([b]))
        for k, (sigma, after) in enumerate(zip(GRID.values, GRID.values[1:], strict=False)):
            level = torch.tensor([sigma])
            now, reached = walked.sample[b, k][None], walked.sample[b, k + 1][None]
            s = sigma if sigma < 0.9999 else min(max(after, 1e-4), 0.999)
            std = 0.5 * math.sqrt(sigma / max(1 - s, 1e-4))
            drift, step = std**2 / (2 * sigma), after - sigma

            def mean(velocity: Tensor, x: Tensor = now, drift: float = drift, sigma: float = sigma,
                     step: float = step) -> Tensor:  # fmt: skip
                return x * (1 + drift * step) + velocity * (1 + drift * (1 - sigma)) * step

            spread = std * math.sqrt(max(-step, 1e-6))
            mine = mean(field(now, level, condition))
            log_prob = (
                -((reached - mine).square()) / (2 * spread**2) - math.log(spread) - math.log(2 * math.pi) / 2
            ).mean()
            with torch.no_grad():
                goal = mean(fields[int(slots.route[b])](now, level, condition))
                divergence = ((mine - goal).square() / (2 * std**2)).mean()
            advantage = -divergence.clamp(-5, 5)
            ratio = torch.exp(log_prob - walked.log_prob[b, k])
            loss = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(0.8, 1.2))
            if anchor is not None:
                held = mean(fields[1](now, level, condition))
                loss = loss + 0.3 * ((mine - held).square() / (2 * std**2)).mean()
            losses.append(loss)
            divergences.append(divergence)
    torch.stack(losses).mean().backward()
    result = update(
        ModelField(student, predict), teachers(), slots, GRID, method,
        micro_batch_size=micro, rollout_batch_size=micro,
    )  # fmt: skip
    expected = torch.stack(divergences).view(SLOTS, 5)
    torch.testing.assert_close(result.loss, expected.mean(dim=1), rtol=1e-3, atol=1e-5)
    same_gradients(student, reference, rtol=2e-3)
    assert result.forwards == SLOTS * 5 and result.sigma[0].tolist() == GRID.tensor()[:-1].tolist()


def test_the_reward_of_flow_opd_has_no_mean_direction() -> None:
    """Its gradient is scatter alone: over 64 times as many paths it is about 8 times shorter."""
    norms = []
    for copies in (8, 512):
        student, slots = ToyModel(STUDENT_SEED, width=48), batch(ALL)
        rows = torch.arange(SLOTS).repeat(copies)
        many = Batch(
            torch.randn(len(rows), *SHAPE, generator=torch.Generator().manual_seed(1)),
            slots.condition.take(rows),
            slots.route[rows],
            slots.states[rows],
            seed=torch.arange(len(rows)),
        )
        update(ModelField(student, predict), teachers(), many, GRID, FlowOPD())
        norms.append(float(torch.cat([p.grad.flatten() for p in student.parameters()]).norm()))
    assert 4 < norms[0] / norms[1] < 16


def test_without_an_anchor_no_other_teacher_is_asked() -> None:
    recorders = [Recorder(field) for field in teachers()]
    slots = batch(ALL)._replace(route=torch.zeros(SLOTS, dtype=torch.int64))
    method = FlowOPD()
    update(ModelField(ToyModel(), predict), recorders, slots, GRID, method)
    assert recorders[0].batches and not recorders[1].batches


@pytest.mark.parametrize("name", METHODS)
def test_every_method_brings_the_student_nearer(name: str) -> None:
    """One teacher, or the data of one image: what each method says is wrong falls to a fraction."""
    method: Method = METHODS[name]()
    if isinstance(method, FlowOPD):
        method = FlowOPD(anchor="0", anchor_weight=1.0)  # its reward alone has no mean direction, see there
    student = ModelField(ToyModel(STUDENT_SEED, width=48), predict)
    slots = batch(ALL if method.num_states(5) == 5 else ONE)
    if not method.needs_teachers:
        slots = slots._replace(clean=torch.ones_like(slots.noise) * 0.3)
    optimizer = torch.optim.AdamW(student.model.parameters(), lr=3e-3, weight_decay=0.0)
    fields = [ModelField(ToyModel(1).requires_grad_(False), predict)] * 2
    errors = []
    for step in range(200):
        optimizer.zero_grad()
        now = slots._replace(noise=draw_sample(SLOTS, seed=step + 100), seed=torch.arange(SLOTS) + step * 99)
        errors.append(float(update(student, fields, now, GRID, method).error.mean()))
        optimizer.step()
    assert sum(errors[-20:]) < 0.5 * sum(errors[:20]), (errors[:3], errors[-3:])


def test_weights_of_a_mixture_are_relative_and_make_a_mean() -> None:
    losses = [
        update(ModelField(ToyModel(), predict), teachers(), batch(ONE), GRID, Soft(weights=weights)).loss
        for weights in (None, {"0": 7.0, "1": 7.0}, {"0": 1.0})
    ]
    assert torch.equal(losses[0], losses[1]) and not torch.equal(losses[0], losses[2])
    assert Soft(weights={"0": 1.0, "2": 3.0}).other_teachers == ("0", "2")
    for weights in ({"0": 0.0}, {"0": 1.0, "1": -1.0}, {}):
        with pytest.raises(ValueError, match="weights must be"):
            Soft(weights=weights)


def same_gradients(student: nn.Module, reference: nn.Module, rtol: float = 1e-4) -> None:
    for (name, found), wanted in zip(student.named_parameters(), reference.parameters(), strict=True):
        scale = float(wanted.grad.abs().max())
        torch.testing.assert_close(found.grad, wanted.grad, rtol=rtol, atol=rtol * scale, msg=name)
