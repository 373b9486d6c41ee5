"""The arithmetic of the flow, fused: kernels for CPU and CUDA; `reference` says the same in plain torch."""

from danceopd.ops import reference
from danceopd.ops._backend import use
from danceopd.ops._transition import SDEStep
from danceopd.ops.fields import blend, route
from danceopd.ops.info import BuildInfo, SelfTest, build_info, self_test
from danceopd.ops.losses import transition_kl, velocity_mse, velocity_mse_with_grad
from danceopd.ops.policy import policy_loss
from danceopd.ops.steps import ab2_step, add_noise, dpmpp_2m_step, euler_step, guide, heun_step
from danceopd.ops.transitions import sde_step

__all__ = [
    "BuildInfo",
    "SDEStep",
    "SelfTest",
    "ab2_step",
    "add_noise",
    "blend",
    "build_info",
    "dpmpp_2m_step",
    "euler_step",
    "guide",
    "heun_step",
    "policy_loss",
    "reference",
    "route",
    "sde_step",
    "self_test",
    "transition_kl",
    "use",
    "velocity_mse",
    "velocity_mse_with_grad",
]
