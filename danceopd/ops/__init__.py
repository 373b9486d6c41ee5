"""The arithmetic of the flow, fused: kernels for CPU and CUDA; `reference` says the same in plain torch."""

from danceopd.ops import reference
from danceopd.ops._backend import use
from danceopd.ops.fields import blend, route
from danceopd.ops.info import BuildInfo, SelfTest, build_info, self_test
from danceopd.ops.losses import velocity_mse, velocity_mse_with_grad
from danceopd.ops.steps import add_noise, euler_step, guide

__all__ = [
    "BuildInfo",
    "SelfTest",
    "add_noise",
    "blend",
    "build_info",
    "euler_step",
    "guide",
    "reference",
    "route",
    "self_test",
    "use",
    "velocity_mse",
    "velocity_mse_with_grad",
]
