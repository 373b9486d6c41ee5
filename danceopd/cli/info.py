"""``danceopd info``."""

from __future__ import annotations

import json
import platform
from typing import Annotated, Any

import typer


def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show versions, instruction set and devices, and test the compiled kernels.

    Exit code 1 when a kernel is less exact than plain torch.
    """
    from dataclasses import asdict
    from importlib.metadata import PackageNotFoundError, version

    from danceopd import __version__, ops

    def installed(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    tests = ops.self_test()
    failed = [test for test in tests if not test.passed]
    packages = ("torch", "diffusers", "peft", "safetensors", "numpy")
    facts = {
        "danceopd": __version__,
        "python": platform.python_version(),
        **{package: installed(package) for package in packages},
        "kernels": asdict(ops.build_info()),
        "self_test": {"passed": not failed, "results": [asdict(t) | {"passed": t.passed} for t in tests]},
    }
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        _print_facts(facts)
    for test in failed:
        typer.echo(
            f"danceopd: kernel '{test.op}' is wrong on {test.device} in {test.dtype}: its error "
            f"{test.error:.1e} is above {test.allowed:.1e}; rebuild the package, or set "
            "DANCEOPD_OPS=reference until then.",
            err=True,
        )
    if failed:
        raise typer.Exit(1)


def _print_facts(facts: dict[str, Any]) -> None:
    kernels, results = facts["kernels"], facts["self_test"]["results"]
    cuda = "no"
    if kernels["cuda_built"]:
        cuda = f"runtime {kernels['cuda_runtime']}, for {', '.join(kernels['cuda_archs'])}"
    passed = sum(test["passed"] for test in results)
    where = ", ".join(dict.fromkeys(test["device"] for test in results))
    lines = {
        **{name: value for name, value in facts.items() if isinstance(value, str)},
        "kernels": f"{kernels['backend']}, version {kernels['version']}, built by {kernels['compiler']}",
        "instructions": f"{kernels['cpu_isa']} (of {', '.join(kernels['cpu_isas'])})",
        "CUDA build": cuda,
        "CUDA driver": kernels["cuda_driver"] or "none",
        "CUDA devices": ", ".join(kernels["cuda_devices"])
        or f"none ({kernels['cuda_problem'] or 'none found'})",
        "self-test": f"{passed} of {len(results)} passed on {where}",
    }
    for name, value in lines.items():
        typer.echo(f"{name:14}{value}")
