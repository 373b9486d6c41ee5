"""What was built, what this machine offers, and whether the kernels compute what they should."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from danceopd.ops import _backend, _native, fields, losses, policy, reference, steps, transitions


@dataclass(frozen=True)
class BuildInfo:
    """The compiled extension and the hardware it found.

    Attributes:
        version: of the extension, always that of the package.
        compiler: that built the CPU kernels.
        backend: "native", or "reference" when `DANCEOPD_OPS` or `use` says so.
        cpu_isa: instruction set in use; `DANCEOPD_CPU_ISA` can force a lower one. On x86 "baseline" gives the
            same bits many times slower: without the instruction, each fused multiply-add is a call of the C
            library.
        cpu_isas: those this CPU and build offer, lowest first.
        cuda_built: whether the extension has CUDA kernels.
        cuda_archs: what they are built for, e.g. "sm_90"; "compute_120" is PTX, which newer devices compile.
        cuda_runtime: version of the linked CUDA runtime, e.g. "13.0"; empty in a CPU build.
        cuda_driver: newest runtime the driver serves; empty without a driver.
        cuda_devices: names and compute capabilities.
        cuda_problem: why there is no CUDA device, in CUDA's words; empty when there is one.
    """

    version: str
    compiler: str
    backend: str
    cpu_isa: str
    cpu_isas: tuple[str, ...]
    cuda_built: bool
    cuda_archs: tuple[str, ...]
    cuda_runtime: str
    cuda_driver: str
    cuda_devices: tuple[str, ...]
    cuda_problem: str


@dataclass(frozen=True)
class SelfTest:
    """One op against its plain-torch twin.

    Attributes:
        op: its name in `danceopd.ops`.
        device: "cpu", "cuda:0", ...
        dtype: of the operands, e.g. "bfloat16".
        error: largest absolute error of the op against a float64 computation.
        allowed: twice the error of plain torch in the same dtype, plus a hair for where that one is exact.
    """

    op: str
    device: str
    dtype: str
    error: float
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether the op is as exact as plain torch."""
        return self.error <= self.allowed


def _cuda_version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}" if number else ""


def _arch(name: str) -> str:
    """CMake's "90-real" and "120-virtual" as nvcc says it: sm_90 is machine code, compute_120 is PTX."""
    number, kind = name.split("-")
    return f"sm_{number}" if kind == "real" else f"compute_{number}"


def build_info() -> BuildInfo:
    """What the extension was built with and what it found on this machine."""
    raw: dict[str, Any] = _native.build_info()
    return BuildInfo(
        version=raw["version"],
        compiler=raw["compiler"],
        backend="native" if _backend.native else "reference",
        cpu_isa=raw["cpu_isa"],
        cpu_isas=tuple(raw["cpu_isas"]),
        cuda_built=raw["cuda_built"],
        cuda_archs=tuple(_arch(name) for name in raw["cuda_archs"].split(",") if name),
        cuda_runtime=_cuda_version(raw["cuda_runtime"]),
        cuda_driver=_cuda_version(raw["cuda_driver"]),
        cuda_devices=tuple(raw["cuda_devices"]),
        cuda_problem=raw["cuda_problem"],
    )


def _cases(x: list[torch.Tensor]) -> Iterator[tuple[str, Callable[[Any], torch.Tensor]]]:
    """Each op as a function of a module that has it (the native functions or the reference)."""
    batch = x[0].shape[0]
    sigma = torch.linspace(0.9, 0.5, batch, dtype=torch.float64).to(x[0].device)
    index = torch.arange(batch, device=x[0].device) % 3
    yield "guide", lambda m: m.guide(x[0], x[1], 4.5)
    yield "euler_step", lambda m: m.euler_step(x[0], x[1], sigma, sigma / 2, uncond=x[2], guidance_scale=4.5)
    yield "heun_step", lambda m: m.heun_step(x[0], x[1], x[2], sigma, sigma / 2)
    yield "ab2_step", lambda m: m.ab2_step(x[0], x[1], x[2], 0.95, sigma, sigma / 2)
    yield "dpmpp_2m_step", lambda m: torch.cat(m.dpmpp_2m_step(x[0], x[1], x[2], 0.95, sigma, sigma / 2))
    yield "sde_step", lambda m: m.sde_step(x[0], x[1], sigma, sigma / 2, noise=x[2]).sample
    yield "add_noise", lambda m: m.add_noise(x[0], x[1], sigma)
    yield "blend", lambda m: m.blend(x, [0.2, 0.3, 0.5])
    yield "route", lambda m: m.route(x, index)
    yield "velocity_mse", lambda m: m.velocity_mse(x[0], x[1], uncond=x[2], guidance_scale=4.5, weight=sigma)
    yield "velocity_mse_with_grad", lambda m: m.velocity_mse_with_grad(x[0], x[1], mask=x[2] > 0)[1]
    yield "transition_kl", lambda m: m.transition_kl(x[0], x[1], sigma)
    yield "policy_loss", lambda m: m.policy_loss(x[0], x[1], x[2], clip_range=0.2)


class _Native:
    guide = staticmethod(steps.guide)
    euler_step = staticmethod(steps.euler_step)
    heun_step = staticmethod(steps.heun_step)
    ab2_step = staticmethod(steps.ab2_step)
    dpmpp_2m_step = staticmethod(steps.dpmpp_2m_step)
    sde_step = staticmethod(transitions.sde_step)
    add_noise = staticmethod(steps.add_noise)
    blend = staticmethod(fields.blend)
    route = staticmethod(fields.route)
    velocity_mse = staticmethod(losses.velocity_mse)
    velocity_mse_with_grad = staticmethod(losses.velocity_mse_with_grad)
    transition_kl = staticmethod(losses.transition_kl)
    policy_loss = staticmethod(policy.policy_loss)


def self_test() -> list[SelfTest]:
    """Run every op with a kernel on small tensors, on the CPU and every CUDA device the extension serves.

    Returns:
        One result per op, device and dtype; `passed` holds for all of them on a sound installation.
    """
    devices = [torch.device("cpu")]
    devices += [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    results = []
    for device in (d for d in devices if _native.serves(d)):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            generator = torch.Generator().manual_seed(0)
            exact = [torch.randn(3, 1237, generator=generator).to(dtype) for _ in range(3)]
            operands = [x.to(device) for x in exact]
            truths = _cases([x.double() for x in exact])
            for (op, run), (_, run_exact) in zip(_cases(operands), truths, strict=True):
                truth = run_exact(reference)
                with _backend.use("native"):
                    error = (run(_Native).cpu().double() - truth).abs().max()
                plain = (run(reference).cpu().double() - truth).abs().max()
                allowed = 2.0 * float(plain) + 1e-7
                results.append(
                    SelfTest(op, str(device), str(dtype).removeprefix("torch."), float(error), allowed)
                )
    return results
