"""What is optimised: fp32 weights under a model of any precision, their optimizer, and their running mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from danceopd.settings import ConfigError
from danceopd.training.config import TrainConfig
from danceopd.training.errors import CheckpointError
from danceopd.training.optimizers import (
    make_optimizer,
    moment_bytes,
    state_from_tensors,
    state_tensors,
    take_step,
)


class TrainedWeights:
    """The module's trainable parameters in fp32, with their optimizer.

    A bf16 parameter keeps 8 bits: an update of 1e-4 of its size would be rounded away. So it gets an fp32
    master, its gradients are summed in fp32 as well, and the parameter is the master rounded once per update.
    An fp32 parameter is its own master.

    Args:
        module: parameters with ``requires_grad`` are trained.
        config: the optimizer and its numbers.

    Raises:
        ConfigError: if nothing is trainable, or in a precision that cannot be trained safely.
    """

    def __init__(self, module: nn.Module, config: TrainConfig) -> None:
        self._parameters = {name: value for name, value in module.named_parameters() if value.requires_grad}
        if not self._parameters:
            raise ConfigError("the student has no trainable parameter: choose student.kind 'full' or 'lora'.")
        for name, parameter in self._parameters.items():
            if parameter.dtype not in (torch.float32, torch.bfloat16):
                raise ConfigError(
                    f"parameter '{name}' is {parameter.dtype}: load the family in float32 or bfloat16."
                )
        self.masters: dict[str, Tensor] = {}
        for name, parameter in self._parameters.items():
            if parameter.dtype == torch.float32:
                self.masters[name] = parameter
            else:
                self.masters[name] = parameter.detach().float().requires_grad_()
                parameter.register_post_accumulate_grad_hook(_move_gradient_to(self.masters[name]))
        self.optimizer = make_optimizer(self.masters.values(), config)
        self._config = config

    def clip(self, max_norm: float | None) -> float:
        """Scale the gradients down to ``max_norm`` if they are longer; returns their norm before."""
        limit = math.inf if max_norm is None else max_norm
        return float(torch.nn.utils.clip_grad_norm_(self.masters.values(), limit))

    def step(self, learning_rate: float) -> None:
        """One update of the optimizer; the gradients are used up."""
        take_step(self.optimizer, learning_rate)
        self.discard_gradients()
        self.publish()

    def discard_gradients(self) -> None:
        """Forget the gradients that are there."""
        self.optimizer.zero_grad(set_to_none=True)

    def bytes_to_come(self) -> int:
        """Of gradients, and of the optimizer's state where it has none yet: what an update will add."""
        masters = self.masters.values()
        moments = 0 if self.optimizer.state else moment_bytes(masters, self._config)
        return moments + sum(master.nbytes for master in masters)

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """The optimizer's state by parameter name; empty before the first update."""
        return {
            f"{name}.{part}": value
            for name, master in self.masters.items()
            if master in self.optimizer.state
            for part, value in state_tensors(self.optimizer.state[master]).items()
        }

    def load(self, student: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]) -> None:
        """Continue from checkpointed weights and optimizer state, bit for bit.

        Raises:
            CheckpointError: if they belong to another model.
        """
        check_same_shapes(student, self.masters)
        with torch.no_grad():
            for name, master in self.masters.items():
                master.copy_(student[name])
                state = state_from_tensors(optimizer, name, master.device)
                if state:
                    self.optimizer.state[master] = state
        self.publish()

    @contextmanager
    def showing(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Let the model compute with other weights within the block; after it, bit for bit, with its own."""
        own = {
            name: parameter.detach().to("cpu", copy=True)  # the device may have no room for a full student's
            for name, parameter in self._parameters.items()
            if parameter is self.masters[name]
        }
        try:
            self._copy(weights)
            yield
        finally:
            self._copy(own)
            self.publish()

    @torch.no_grad()
    def _copy(self, weights: Mapping[str, Tensor]) -> None:
        for name, weight in weights.items():
            self._parameters[name].copy_(weight)

    @torch.no_grad()
    def publish(self) -> None:
        """Bring the module's parameters to their masters, where these were written to."""
        for name, parameter in self._parameters.items():
            if parameter is not self.masters[name]:
                parameter.copy_(self.masters[name])


class RunningMean:
    """Exponential moving average of the weights, in fp32.

    The decay of update s (from 0) is min(decay, (1 + s) / (10 + s)), so that the random start fades early.

    Args:
        weights: fp32 by name; their present values are the start.
        decay: in (0, 1).
    """

    def __init__(self, weights: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.mean = {name: weight.detach().clone() for name, weight in weights.items()}

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor], step: int) -> None:
        """Take in the weights after update ``step``, counted from 0."""
        share = 1.0 - min(self.decay, (1 + step) / (10 + step))
        for name, mean in self.mean.items():
            mean.lerp_(weights[name], share)

    def load(self, mean: Mapping[str, Tensor]) -> None:
        """Continue from a checkpointed mean."""
        check_same_shapes(mean, self.mean)
        for name, value in self.mean.items():
            value.copy_(mean[name])


def check_same_shapes(saved: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError unless both hold the same names with the same shapes."""
    for name in sorted({*saved, *wanted}):
        here, there = (tuple(m[name].shape) if name in m else None for m in (wanted, saved))
        if here != there:
            raise CheckpointError(
                f"the checkpoint does not fit the student: '{name}' is {there or 'missing'} in the "
                f"checkpoint and {here or 'missing'} in the student; resume with the settings of that run."
            )


def _move_gradient_to(master: Tensor) -> Callable[[Tensor], None]:
    def move(parameter: Tensor) -> None:
        if parameter.grad is not None:
            gradient = parameter.grad.float()
            master.grad = gradient if master.grad is None else master.grad.add_(gradient)
            parameter.grad = None

    return move
