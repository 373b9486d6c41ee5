"""The one place that imports the compiled extension `_danceopd`.

The extension knows nothing of libtorch; it reads tensors through the objects bound here. Its calls take first
whether torch's dispatcher calls (True) or a user (False), and return None where they do not take the
arguments as they are: wrong ones, ones to be converted, or a call that wants more than the kernel (a
gradient, a dispatch mode, a transform).
"""

from __future__ import annotations

from typing import Any

import torch

import danceopd
from danceopd.ops import _private

try:
    import _danceopd
except ModuleNotFoundError as error:
    raise ImportError(
        "The compiled extension _danceopd is missing; run `pip install .` in the repository."
    ) from error

if _danceopd.__version__ != danceopd.__version__:
    raise ImportError(
        f"The compiled extension _danceopd is version {_danceopd.__version__} but danceopd is "
        f"{danceopd.__version__}; run `pip install .` in the repository."
    )


_danceopd.bind_torch(
    {
        "Tensor": torch.Tensor,
        "Parameter": torch.nn.Parameter,
        "float32": torch.float32,
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
        "float64": torch.float64,
        "bool": torch.bool,
        "int64": torch.int64,
        "empty_like": torch.empty_like,
        "increment_version": torch.autograd.graph.increment_version,
        "storage_bytes": torch.UntypedStorage.nbytes,
        "is_grad_enabled": torch.is_grad_enabled,
        "get_num_threads": torch.get_num_threads,
        "exchange": getattr(torch.Tensor, "__dlpack_c_exchange_api__", None),
        "dispatch_modes": _private.dispatch_modes,
        "function_transform": _private.function_transform,
        "tracing_state": _private.tracing_state,
        "forward_ad": _private.forward_ad_names,
        "raw_stream": _private.raw_stream,
    }
)

guide: Any = _danceopd.guide
euler_step: Any = _danceopd.euler_step
heun_step: Any = _danceopd.heun_step
ab2_step: Any = _danceopd.ab2_step
dpmpp_2m_step: Any = _danceopd.dpmpp_2m_step
add_noise: Any = _danceopd.add_noise
blend: Any = _danceopd.blend
route: Any = _danceopd.route
velocity_mse: Any = _danceopd.velocity_mse
policy_loss: Any = _danceopd.policy_loss
sde_step: Any = _danceopd.sde_step


def build_info() -> dict[str, Any]:
    """What the extension says about itself (see `danceopd.ops.build_info`)."""
    info: dict[str, Any] = _danceopd.build_info()
    return info


def serves(device: torch.device) -> bool:
    """Whether the extension has kernels that run on this device."""
    if device.type != "cuda":
        return device.type == "cpu"
    index = torch.cuda.current_device() if device.index is None else device.index
    return bool(_danceopd.cuda_usable(index))


def set_cpu_isa(name: str) -> None:
    """Make the CPU kernels use another of `build_info()["cpu_isas"]`; for tests and benchmarks."""
    _danceopd.set_cpu_isa(name)
