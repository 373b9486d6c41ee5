"""What an update costs: forwards by count, and seconds and memory by measuring one of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from danceopd.flow import Condition, VelocityField, route_probabilities
from danceopd.methods import FlowOPD, Soft
from danceopd.training.batch import PlannedBatch
from danceopd.training.check.memory import memory_of
from danceopd.training.check.probe import Probe
from danceopd.training.check.report import Estimate
from danceopd.training.config import Route, TrainConfig
from danceopd.training.measuring import peak_bytes
from danceopd.training.plan import Plan
from danceopd.training.trainer import DanceOPDTrainer

_BACKWARD = 2.0  # in forwards: one for the inputs' gradients, one for the weights'
_PLANNED = 100  # updates whose plans are looked at
_ENOUGH = 0.02  # seconds over which a forward is measured


@dataclass(frozen=True)
class ForwardsPerSample:
    """Evaluations of a model for one sample of an update, on average; guidance counts twice.

    Attributes:
        rollout: of the student on its way to the queried state.
        student: there, with gradient.
        teacher: there.
    """

    rollout: float
    student: int
    teacher: int


def forwards_per_sample(
    config: TrainConfig, plan: Plan, teacher_guidance: Sequence[float]
) -> ForwardsPerSample:
    """The mean way to the last queried state, and one forward of student and teachers at each of them.

    Args:
        config: of the run.
        plan: of the run.
        teacher_guidance: guidance scales of the teachers that are asked at a state.
    """
    student = 1 if config.student_guidance_scale == 1.0 else 2
    teacher = sum(1 if scale == 1.0 else 2 for scale in teacher_guidance)
    return ForwardsPerSample(
        rollout=_way(config, plan) * student,
        student=student * plan.num_states,
        teacher=teacher * plan.num_states,
    )


def _way(config: TrainConfig, plan: Plan) -> float:
    """Steps of a rollout to its last queried state, on average."""
    if not config.method.rolls_out:
        return 0.0
    if isinstance(config.method, FlowOPD):
        return plan.num_steps  # its last step is drawn and judged as well
    if plan.num_states == 1 and plan.query.over == "index":
        return plan.query.expected_forwards(plan.num_steps)
    # The largest of several draws has no short formula, and a law over sigma asks every row's own grid.
    return statistics.fmean(slot.states[-1] for step in range(_PLANNED) for slot in plan.step(step))


def estimate_run(trainer: DanceOPDTrainer, routes: list[Route], probe: Probe) -> Estimate:
    """Memory and time of the run, from its models and one measured forward of each field on each route."""
    config = trainer.config
    shares = route_probabilities([route.weight for route in routes])
    per_forward: dict[str, float] = {}
    forwards = backwards = seconds = 0.0
    activations = 0
    for route, share in enumerate(shares):
        asked = _asked_on(route, trainer)
        (batch,) = probe.batches(probe.slots(route)[:1], trainer.teacher_of_route)
        count = forwards_per_sample(config, trainer.plan, [trainer.asked[i].guidance_scale for i in asked])
        guided = 1 if config.student_guidance_scale == 1.0 else 2
        # What is measured has guidance in it already.
        student = _seconds(trainer.field, batch, config.batch_size) / guided
        teacher = sum(_seconds(trainer.teachers[i], batch, config.batch_size) for i in asked)
        again = 1.0 if config.student.gradient_checkpointing else 0.0
        passes = count.rollout + count.student * (1.0 + _BACKWARD + again)
        seconds += share * (passes * student + trainer.plan.num_states * teacher)
        forwards += share * (count.rollout + count.student * (1.0 + again) + count.teacher)
        backwards += share * count.student
        per_forward[trainer.route_names[route]] = student
        activations = max(activations, _activations(trainer, batch))
    samples = config.samples_per_update
    return Estimate(
        memory=memory_of(trainer, activations * config.batch_size),
        forwards=samples * forwards,
        backwards=samples * backwards,
        seconds_per_forward=per_forward,
        seconds_per_update=samples * seconds,
        hours=samples * seconds * config.max_steps / 3600,
    )


def _asked_on(route: int, trainer: DanceOPDTrainer) -> list[int]:
    """Positions of the teachers that are asked about a state of a route's samples."""
    if not trainer.method.needs_teachers:
        return []
    if isinstance(trainer.method, Soft):
        return list(range(len(trainer.asked)))
    own = trainer.teacher_of_route[route]
    names = trainer.method.other_teachers
    return [own, *(i for i, teacher in enumerate(trainer.asked) if teacher.name in names)]


@torch.no_grad()
def _seconds(field: VelocityField, batch: PlannedBatch, size: int) -> float:
    """Of one sample in a batch of `size`, after a first call that does not count."""
    one = batch.batch
    noise = one.noise.float().expand(size, *one.noise.shape[1:]).contiguous()
    sigma = batch.grid.tensor(noise.device)[0].expand(size)
    condition: Condition = one.condition.take(torch.zeros(size, dtype=torch.int64))
    field(noise, sigma, condition)
    _wait(noise.device)
    began, calls = time.perf_counter(), 0
    while time.perf_counter() - began < _ENOUGH:
        field(noise, sigma, condition)
        _wait(noise.device)
        calls += 1
    return (time.perf_counter() - began) / calls / size


def _activations(trainer: DanceOPDTrainer, batch: PlannedBatch) -> int:
    """Bytes at the worst moment of one sample's forward and backward of the student."""
    one = batch.batch
    sigma = batch.grid.tensor(one.noise.device)[0].expand(len(one.noise))

    def once() -> None:
        velocity = trainer.field(one.noise.float(), sigma, one.condition)
        velocity.backward(torch.zeros_like(velocity))

    # Gradients of weights do not grow with the batch and are counted elsewhere: each is dropped at once.
    hooks = []
    for name, parameter in trainer.student.module.named_parameters():
        if parameter.requires_grad:
            drop = partial(_drop_gradient, trainer.weights.masters[name])
            hooks.append(parameter.register_post_accumulate_grad_hook(drop))
    try:
        return peak_bytes(once, trainer.family.device)
    finally:
        for hook in hooks:
            hook.remove()
        trainer.weights.discard_gradients()


def _drop_gradient(master: Tensor, parameter: Tensor) -> None:
    master.grad = parameter.grad = None


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
