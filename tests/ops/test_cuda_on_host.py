"""The CUDA sources, compiled for the host, against the CPU kernels: bit for bit, under sanitizers.

What only a GPU can show is in test_gpu.py.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HARNESS = Path(__file__).parent / "cuda_on_host"
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
FLAGS = ["-std=c++17", "-O1", "-g1", "-ffp-contract=off", "-fno-math-errno", *SANITIZE, "-pthread"]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [
    "-mavx512f",
    "-mavx512bw",
    "-mavx512dq",
    "-mavx512vl",
    "-mfma",
    "-mf16c",
    "-mprefer-vector-width=512",
]
X86 = platform.machine().lower() in ("x86_64", "amd64")

PROBE = """
#include <sanitizer/common_interface_defs.h>
#include <ucontext.h>
ucontext_t context;
int main() { return getcontext(&context); }
"""


def run(command: list[str | Path]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        # Nothing is freed at the end of a process on purpose: the pools live as long as it does.
        env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"},
    )


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A C++ compiler with both sanitizers."""
    names = [os.environ.get("CXX", ""), "c++", "g++", "clang++"]
    found = [name for name in names if name and shutil.which(name)]
    if not found:
        pytest.skip("needs a C++ compiler; install g++ or clang++, or set CXX")
    probe = tmp_path_factory.mktemp("probe") / "probe"
    probe.with_suffix(".cpp").write_text(PROBE)
    said = []
    for name in found:
        built = run([name, *FLAGS, probe.with_suffix(".cpp"), "-o", probe])
        if built.returncode == 0 and run([probe]).returncode == 0:
            return name
        said.append(f"{name}: {(built.stderr.strip() or 'its program does not run').splitlines()[0]}")
    pytest.skip(
        f"needs a C++ compiler with the address and undefined-behaviour sanitizers ({'; '.join(said)})"
    )


def units() -> list[tuple[Path, list[str]]]:
    """Every translation unit with the flags of its own."""
    own = {
        "launch.cu": ["-x", "c++", "-include", "cuda_runtime.h"],  # as nvcc includes it
        "unit_avx2.cpp": AVX2,
        "unit_avx512.cpp": AVX512,
    }
    sources = [*sorted((ROOT / "csrc/cpu").glob("*.cpp")), *sorted((ROOT / "csrc/cuda").glob("*.cu"))]
    sources += sorted(HARNESS.glob("*.cpp"))
    return [(s, own.get(s.name, [])) for s in sources if X86 or "avx" not in s.name]


@pytest.fixture(scope="module")
def program(compiler: str, pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that compares; built again when anything it is made of has changed."""
    flags = [*FLAGS, "-I", str(ROOT / "csrc"), "-I", str(HARNESS)] + ["-DDANCEOPD_X86"] * X86
    made_of = hashlib.sha256(f"{run([compiler, '--version']).stdout} {flags} {units()}".encode())
    for file in sorted([*(ROOT / "csrc").rglob("*"), *HARNESS.iterdir()]):
        if file.is_file():
            made_of.update(file.read_bytes())
    cache = getattr(pytestconfig, "cache", None)  # None under `-p no:cacheprovider`
    folder = cache.mkdir("cuda_on_host") if cache else tmp_path_factory.mktemp("cuda_on_host")
    program = folder / f"compare-{made_of.hexdigest()[:16]}"
    if program.exists():
        return program

    for old in folder.iterdir():
        old.unlink()
    objects: list[str | Path] = []
    build = tmp_path_factory.mktemp("objects")
    for source, own in units():
        objects.append(build / f"{source.stem}.o")
        done = run([compiler, *flags, *own, "-c", source, "-o", objects[-1]])
        assert done.returncode == 0, f"{source.name} does not compile for the host\n{done.stderr}"
    done = run([compiler, *FLAGS, *objects, "-o", build / "compare"])
    assert done.returncode == 0, done.stderr
    shutil.move(build / "compare", program)
    return program


def test_cuda_sources_give_the_bits_of_the_cpu_kernels(program: Path) -> None:
    done = run([program])
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
    compared = set(done.stdout.splitlines()[-1].removeprefix("passed: ").split())
    arguments = (ROOT / "csrc/core/arguments.h").read_text()
    combined = re.search(r"enum class CombineOp[^{]*\{([^}]*)\}", arguments)
    launched = re.findall(
        r"^void (\w+)\(const \w+Args&", (ROOT / "csrc/cuda/launch.h").read_text(), re.MULTILINE
    )
    assert combined and launched
    every = {*combined[1].replace(",", " ").split(), *launched} - {"combine"}
    assert compared == every, "an op is missing from the table in compare.cpp"
