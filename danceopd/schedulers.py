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

__all__ = ["FusedFlowMatchEulerScheduler"]

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
        deterministic = per_token_timesteps is None and s_churn == 0.0 and not self.config.stochastic_sampling
        if deterministic and _is_time(timestep) and _fits(model_output, sample):
            self._find_step(timestep)
            match self._host_sigmas()[self.step_index : self.step_index + 2]:
                case [now, then] if 0.0 <= then <= now <= 1.0:
                    state = sample if sample.dtype == model_output.dtype else sample.float()
                    following = ops.euler_step(state, model_output, now, then)
                    return self._advance(following.to(model_output.dtype), return_dict)
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

    def _find_step(self, timestep: float | Tensor) -> None:
        if self.step_index is None:
            self._init_step_index(timestep)

    def _host_sigmas(self) -> list[float]:
        """The grid as floats, read once: on an accelerator every reading waits for the device.

        A grid that was replaced or edited in place is read again. Tensors made in inference mode do not count
        their edits, so they are read each time.
        """
        grid = self.sigmas
        if grid.is_inference():
            return grid.tolist()
        known = getattr(self, "_read", None)
        if known is None or known[0] is not grid or known[1] != grid._version:
            self._read = known = (grid, grid._version, grid.tolist())
        return known[2]

    def _advance(self, following: Tensor, return_dict: bool) -> StepResult:
        self._step_index += 1
        return FlowMatchEulerDiscreteSchedulerOutput(prev_sample=following) if return_dict else (following,)


def _is_time(timestep: float | Tensor) -> bool:
    """Whether this may be a timestep; the parent says what is wrong with an index."""
    return timestep.is_floating_point() if isinstance(timestep, Tensor) else isinstance(timestep, float)


def _fits(velocity: Tensor, sample: Tensor) -> bool:
    """Whether the kernel takes these operands; the parent broadcasts, promotes or refuses the others."""
    return (
        velocity.dtype in _FUSED
        and sample.dtype in _FUSED
        and velocity.shape == sample.shape
        and velocity.device == sample.device
        and velocity.ndim > 0
        and velocity.numel() > 0
    )
