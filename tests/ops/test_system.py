"""The extension in its process: environment, threads, forks, versions, what it says about itself."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from danceopd import ops
from danceopd.ops import _backend
from tests.ops.cases import OPS, call, operands, same_bits

ROOT = Path(__file__).parents[2]


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=120,
        env={**os.environ, **environment},
    )


def test_self_test_passes_and_covers_every_op() -> None:
    results = ops.self_test()
    assert [r for r in results if not r.passed] == []
    assert {r.op for r in results if r.device == "cpu"} == set(ops.reference.__all__)


def test_self_test_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ops.info._Native.guide
    monkeypatch.setattr(ops.info._Native, "guide", staticmethod(lambda u, c, s: right(u, c, s) * 1.01))
    assert {r.op for r in ops.self_test() if not r.passed} == {"guide"}


def test_build_info() -> None:
    info = ops.build_info()
    import danceopd

    assert info.version == danceopd.__version__
    assert info.cpu_isas[0] == "baseline" and info.cpu_isa in info.cpu_isas
    assert bool(info.cuda_devices) != bool(info.cuda_problem)


def test_use_switches_and_restores(monkeypatch: pytest.MonkeyPatch) -> None:
    x = operands((2, 33), torch.bfloat16)
    calls: list[str] = []
    right = ops.reference.guide
    monkeypatch.setattr(ops.reference, "guide", lambda *a, **k: calls.append("guide") or right(*a, **k))
    ops.guide(x[0], x[1], 2.0)
    assert calls == [] and ops.build_info().backend == "native"
    with ops.use("reference"):
        ops.guide(x[0], x[1], 2.0)
        assert ops.build_info().backend == "reference"
        with ops.use("native"):
            ops.guide(x[0], x[1], 2.0)
    assert calls == ["guide"] and _backend.native
    with pytest.raises(KeyError), ops.use("reference"):
        raise KeyError
    assert _backend.native


def test_use_is_a_statement_too() -> None:
    try:
        ops.use("reference")
        assert ops.build_info().backend == "reference"
        with ops.use("native"):
            assert ops.build_info().backend == "native"
        assert ops.build_info().backend == "reference"
    finally:
        ops.use("native")
    assert ops.build_info().backend == "native"


def test_environment_chooses_backend_and_instruction_set() -> None:
    code = "from danceopd import ops; i = ops.build_info(); print(i.backend, i.cpu_isa)"
    chosen = python(code, DANCEOPD_OPS="reference", DANCEOPD_CPU_ISA="baseline")
    assert chosen.stdout.split() == ["reference", "baseline"], chosen.stderr


def test_wrong_environment_missing_and_stale_extension_are_one_clear_sentence() -> None:
    """One process for all: importing torch is what takes the time."""
    code = """
import importlib, os, sys, types
import torch, danceopd

def fails(module, **environment):
    os.environ.update(environment)
    sys.modules.pop(module, None)
    try:
        importlib.import_module(module)
    except (ImportError, ValueError) as error:
        print(error)
    for name in environment:
        del os.environ[name]

package = types.ModuleType("danceopd.ops")  # its modules one by one, without importing the whole
package.__path__ = [danceopd.__path__[0] + "/ops"]
sys.modules["danceopd.ops"] = package
fails("danceopd.ops._backend", DANCEOPD_OPS="cuda")
fails("_danceopd", DANCEOPD_CPU_ISA="mmx")
sys.modules["_danceopd"] = None
fails("danceopd.ops._native")
sys.modules["_danceopd"] = types.SimpleNamespace(__version__="0.0.1")
fails("danceopd.ops._native")
"""
    done = python(code)
    lines = done.stdout.splitlines()
    assert len(lines) == 4, done.stderr
    assert lines[0].endswith("DANCEOPD_OPS is 'cuda'; set it to 'native' or 'reference'.")
    assert "DANCEOPD_CPU_ISA is 'mmx', but this CPU and build offer only: baseline" in lines[1]
    assert lines[2] == "The compiled extension _danceopd is missing; run `pip install .` in the repository."
    assert "_danceopd is version 0.0.1 but danceopd is" in lines[3] and "run `pip install .`" in lines[3]


def test_source_folder_does_not_hide_the_extension() -> None:
    code = "import danceopd, importlib.util as u; print(danceopd.__file__, u.find_spec('_danceopd').origin)"
    package, extension = python(code).stdout.split()
    assert package == str(ROOT / "danceopd" / "__init__.py")
    assert ROOT / "danceopd" not in Path(extension).parents


def test_forked_child_computes() -> None:
    """The parent's worker threads do not exist in the child, which must neither hang nor miscount."""
    code = """
import os, sys, warnings
import torch
from danceopd import ops
warnings.simplefilter("ignore")
torch.set_num_threads(3)
x, v = torch.ones(4, 50_000), torch.ones(4, 50_000)
for _ in range(3):
    assert ops.euler_step(x, v, 1.0, 0.25).eq(0.25).all()
for _ in range(3):
    child = os.fork()
    if child == 0:
        good = all(ops.euler_step(x, v, 1.0, 0.25).numpy().min() == 0.25 for _ in range(5))
        os._exit(0 if good else 3)
    assert os.waitpid(child, 0)[1] == 0
    assert ops.velocity_mse_with_grad(x, v * 3)[0].tolist() == [4.0] * 4
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_several_python_threads_at_once() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    x = operands((4, 40_000), torch.float32)
    expected = {name: call(name, ops, x) for name in OPS}
    wrong: list[str] = []

    def work() -> None:
        with torch.no_grad():
            for _ in range(10):
                wrong.extend(name for name in OPS if not same_bits(call(name, ops, x), expected[name]))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    torch.set_num_threads(threads)
    assert wrong == []


@pytest.mark.parametrize("op", ["blend", "route"])
def test_lists_that_another_thread_clears(op: str) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    index = torch.zeros(1, dtype=torch.int64)
    for _ in range(10):
        fields = [torch.ones(1, 1 << 22) for _ in range(4)]
        started = threading.Event()

        def clear(fields: list[torch.Tensor] = fields, started: threading.Event = started) -> None:
            started.wait()
            fields.clear()

        thread = threading.Thread(target=clear)
        thread.start()
        started.set()
        try:
            result = ops.blend(fields, [0.25] * 4) if op == "blend" else ops.route(fields, index)
        except ValueError as error:  # cleared before the call
            assert "pass 1 to 32" in str(error) or "entries" in str(error)
        else:
            assert bool((result == 1).all())
        thread.join()
    torch.set_num_threads(threads)


def test_denormals_as_the_caller_wants_them_in_every_thread() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    tiny = torch.full((1, 1 << 18), 1e-40)
    try:
        kept = ops.guide(tiny, tiny, 2.0)
        if not torch.set_flush_denormal(True):
            pytest.skip("this CPU cannot flush denormals")
        flushed = ops.guide(tiny, tiny, 2.0)
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)
    assert same_bits(kept, tiny) and same_bits(flushed, torch.zeros_like(tiny))
    assert same_bits(ops.guide(tiny, tiny, 2.0), tiny)


def test_torch_without_its_private_names_takes_the_slow_way() -> None:
    code = """
import warnings
import torch
del torch._C._len_torch_dispatch_stack, torch._C._get_tracing_state
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    from danceopd import ops
print(len([w for w in said if "danceopd's ops take a slower way" in str(w.message)]))
x, v = torch.ones(2, 3), torch.ones(2, 3)
print(ops._native.guide(False, x, v, 2.0, None), ops.guide(x, v, 2.0).sum().item())
"""
    done = python(code)
    assert done.stdout.split() == ["2", "None", "6.0"], done.stderr


SMAPS = Path("/proc/self/smaps")


def mapping_flags(address: int) -> list[str]:
    """What the kernel says of the mapping that an address lies in."""
    inside = False
    for line in SMAPS.read_text().splitlines():
        head, _, rest = line.partition(" ")
        if "-" in head and not head.endswith(":"):
            low, high = (int(end, 16) for end in head.split("-"))
            inside = low <= address < high
        elif inside and head == "VmFlags:":
            return rest.split()
    return []


@pytest.mark.skipif(not SMAPS.exists(), reason="needs /proc/self/smaps")
def test_large_results_ask_for_huge_pages() -> None:
    small, large = torch.zeros(1, 1 << 18), torch.zeros(1, 12 << 20)
    result = ops.add_noise(large, large, 0.5)
    flags = mapping_flags(result.data_ptr() + 4096)
    if "hg" not in flags and not Path("/sys/kernel/mm/transparent_hugepage").exists():
        pytest.skip("this kernel has no huge pages to give")
    assert "hg" in flags and torch.equal(result, large)
    assert torch.equal(ops.add_noise(small, small, 0.5), small)


def test_nothing_leaks() -> None:
    x = [t.clone() for t in operands((2, 64), torch.float32)]
    leaf = x[0].clone().requires_grad_()
    for name in OPS:
        call(name, ops, x)
    before = [sys.getrefcount(t) for t in x] + [sys.getrefcount(None), sys.getrefcount(torch.float32)]
    for _ in range(200):
        ops.euler_step(x[0], x[1], 0.5, 0.4, uncond=x[2], guidance_scale=2.0)
        ops.blend(x, [0.1, 0.2, 0.3])
        ops.dpmpp_2m_step(*x, 0.9, 0.5, 0.4)
        ops.sde_step(x[0], x[1], 0.5, 0.4, seed=1)
        ops.velocity_mse(x[0], x[1])
        ops.velocity_mse_with_grad(x[0], x[1])
        ops.velocity_mse(leaf, x[1]).backward()
        ops.transition_kl(leaf, x[1], 0.5).sum().backward()
        ops.policy_loss(leaf, x[1], x[2]).backward()
        with pytest.raises(ValueError, match="sigma"):
            ops.add_noise(x[0], x[1], 2.0)
    after = [sys.getrefcount(t) for t in x] + [sys.getrefcount(None), sys.getrefcount(torch.float32)]
    assert all(b - a < 100 for a, b in zip(before, after, strict=True))
