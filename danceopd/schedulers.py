"""Drop-in diffusers schedulers whose steps run in the fused kernels.

Put one into any pipeline that samples with diffusers' `FlowMatchEulerDiscreteScheduler`:

    pipe.scheduler = FusedFlowMatchEulerScheduler.from_config(pipe.scheduler.config)
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
    FlowMatchEulerDiscreteSchedulerOutput,
)

# For diffusers: a saved pipeline names this module, and diffusers looks in it for the base class that loads.
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401

from danceopd import ops

__all__ = ["FusedFlowMatchAB2Scheduler", "FusedFlowMatchEulerScheduler"]

Tensor = torch.Tensor
StepResult: TypeAlias = FlowMatchEulerDiscreteSchedulerOutput | tuple[Tensor]

_FUSED = (torch.float32, torch.bfloat16, torch.float16)


class FusedFlowMatchEulerScheduler(FlowMatchEulerDiscreteScheduler):
    """diffusers' `FlowMatchEulerDiscreteScheduler` with `step` as one kernel.

    Same config, grids, arguments and dtypes; `from_config` takes the config of either class. The results
    differ by rounding alone: `sample + (sigma_next - sigma) * velocity` is rounded once here, while the
    parent rounds the product first, and for a bfloat16 or float16 model the factor too, to that dtype.

    What the kernel does not do is the parent's own step, unchanged: stochastic sampling, timesteps per token,
    grids that rise or leave [0, 1] (`invert_sigmas`), float64, operands that broadcast.
    """

    _read: tuple[Tensor, int, list[float]] | None = None

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = float("inf"),
        s_noise: float = 1.0,
        generator: torch.Generator | None = None,
        per_token_timesteps: Tensor | None = None,
        return_dict: bool = True,
    ) -> StepResult:
        """One Euler step to the next noise level of the grid.

        Args:
            model_output: the velocity, [B, ...]; guidance already applied.
            timestep: an entry of `timesteps`; it counts only in the first step after `set_timesteps`, and
                only if no `set_begin_index` said where to begin.
            sample: the state at that timestep, [B, ...].
            s_churn: goes to the parent, like the next three; it ignores them today.
            s_tmin: see `s_churn`.
            s_tmax: see `s_churn`.
            s_noise: see `s_churn`.
            generator: noise of stochastic sampling.
            per_token_timesteps: goes to the parent.
            return_dict: whether to return an output object or a tuple of one.

        Returns:
            The next state as `prev_sample`, in the dtype of `model_output`.
        """
        following = None
        deterministic = per_token_timesteps is None and s_churn == 0.0 and not self.config.stochastic_sampling
        if deterministic and _is_time(timestep) and _fits(model_output, sample):
            if self.step_index is None:
                self._init_step_index(timestep)
            state = sample if sample.dtype == model_output.dtype else sample.float()
            following = self._fused(state, model_output)
        if following is not None:
            self._step_index += 1
            following = following.to(model_output.dtype)
            return FlowMatchEulerDiscreteSchedulerOutput(following) if return_dict else (following,)
        return super().step(
            model_output,
            timestep,
            sample,
            s_churn,
            s_tmin,
            s_tmax,
            s_noise,
            generator,
            per_token_timesteps,
            return_dict,
        )

    def _fused(self, sample: Tensor, velocity: Tensor) -> Tensor | None:
        """The next state; None where the kernel cannot take the step that the grid asks for."""
        match self._host_sigmas()[self.step_index : self.step_index + 2]:
            case [now, then] if 0.0 <= then <= now <= 1.0:
                return ops.euler_step(sample, velocity, now, then)
        return None

    def _host_sigmas(self) -> list[float]:
        """The grid as floats, read once: on an accelerator every reading waits for the device.

        A grid that was replaced or edited in place is read again. Tensors made in inference mode do not count
        their edits, so they are read each time.
        """
        grid = self.sigmas
        if grid.is_inference():
            return grid.tolist()
        if self._read is None or self._read[0] is not grid or self._read[1] != grid._version:
            self._read = grid, grid._version, grid.tolist()
        return self._read[2]


class FusedFlowMatchAB2Scheduler(FusedFlowMatchEulerScheduler):
    """Adams-Bashforth 2 in the place of Euler: second order, still one model call per step.

    With d = sigma_next - sigma and r = d / (sigma - sigma_previous), a step is
    `sample + d * (velocity + r / 2 * (velocity - velocity_previous))`: the line through the last two
    velocities, integrated over the step, on any grid. Where the grid resolves the flow, half the steps reach
    Euler's error.

    Same config, grids, arguments and dtypes as the parents; `from_config` takes the config of any of them.
    The first step after `set_timesteps` is Euler's, and so is the first after the batch changed its shape or
    its device. So is every step that has no use for an earlier velocity: stochastic sampling, timesteps per
    token, float64, operands that broadcast.
    """

    _previous: tuple[Tensor, int, Tensor] | None = None  # grid, step on it, velocity

    def _fused(self, sample: Tensor, velocity: Tensor) -> Tensor | None:
        grid, at = self.sigmas, self.step_index
        earlier, self._previous = self._previous, None
        if at + 2 < len(grid):
            # A copy: the next call of a model in a CUDA graph overwrites its output.
            self._previous = grid, at, velocity.clone()
        if (
            earlier is not None
            and earlier[0] is grid
            and earlier[1] == at - 1
            and _alike(velocity, earlier[2])
        ):
            match self._host_sigmas()[at - 1 : at + 2]:
                case [before, now, then] if 1.0 >= before > now >= then >= 0.0:
                    return ops.ab2_step(sample, velocity, earlier[2], before, now, then)
                case [before, now, then] if 0.0 <= before < now <= then <= 1.0:  # `invert_sigmas`: mirrored
                    return ops.ab2_step(sample, -velocity, -earlier[2], 1.0 - before, 1.0 - now, 1.0 - then)
        return super()._fused(sample, velocity)


def _is_time(timestep: object) -> bool:
    """Whether the parent takes this for a timestep; for an index it says what is wrong with that.

    Its own distinction: NumPy's integers and small integer tensors are timesteps, Python's ints are not.
    """
    return not isinstance(timestep, (int, torch.IntTensor, torch.LongTensor))


def _alike(velocity: Tensor, earlier: Tensor) -> bool:
    return velocity.shape == earlier.shape and velocity.device == earlier.device


def _fits(velocity: Tensor, sample: Tensor) -> bool:
    """Whether the kernel takes these operands; the parent broadcasts, promotes or refuses the others."""
    return (
        velocity.dtype in _FUSED
        and sample.dtype in _FUSED
        and _alike(velocity, sample)
        and velocity.ndim > 0
        and velocity.numel() > 0
    )
