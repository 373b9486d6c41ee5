"""The benchmark's contenders compute the same, and its reports hold what they promise. No time is judged."""

from __future__ import annotations

import argparse
import csv
import inspect
import io
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import kernel_bench
import pytest
import torch
from opbench import measure, report
from opbench.operands import Operands, make_operands
from opbench.table import TABLE, Entry
from rich.console import Console

from danceopd import ops

NOT_KERNELS = {"BuildInfo", "SDEStep", "SelfTest", "build_info", "reference", "self_test", "use"}


def test_every_op_is_in_the_table() -> None:
    assert {entry.op for entry in TABLE} == set(ops.__all__) - NOT_KERNELS
    assert len({entry.name for entry in TABLE}) == len(TABLE)


def tensors(result: Any) -> list[torch.Tensor]:
    parts = [result] if isinstance(result, torch.Tensor) else list(result)
    return [part.detach().double().clone() for part in parts]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("entry", TABLE, ids=lambda entry: entry.name)
def test_the_contenders_compute_the_same(
    entry: Entry, dtype: torch.dtype, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        torch, "compile", lambda function, dynamic: function
    )  # the compiler is not under test

    def operands() -> Operands:  # for each, as some write over the sample
        return make_operands(2, 4 * 1037 * dtype.itemsize, dtype, torch.device(device))[1]

    tolerance = 2e-6 if dtype == torch.float32 else 4e-2
    with torch.set_grad_enabled(entry.grad):
        results = {
            name: tensors(form(operands())) for name, form in kernel_bench.forms_of(entry, True).items()
        }
    own = results.pop("danceopd")
    for name, others in results.items():
        for mine, other in zip(own, others, strict=False):  # an SDEStep ends with its std
            allowed = tolerance * float(other.abs().max())
            if entry.name == "sde_step, own noise":  # each draws its own
                mine, other, allowed = mine.mean(), other.mean(), 0.05
            elif mine.shape != other.shape:  # a loss per sample beside its mean
                mine, other = mine.mean(), other.mean()
            assert bool(((mine - other).abs() <= allowed).all()), name


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_tiny_run_writes_all_its_reports(
    device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "run.json"
    only = ["--sizes", "64", "1K", "--dtypes", "bfloat16", "--rounds", "2"]
    kernel_bench.main(["--device", device, "--quick", *only, "--out", str(out)])
    told = capsys.readouterr().out
    assert "slower than eager in" in told and "euler_step, guided" in told
    results = json.loads(out.read_text())
    assert results["versions"]["torch"] == torch.__version__ and results["rounds"] == 2
    assert len(results["rows"]) == 2 * len(TABLE)
    into = {entry.name: {"danceopd, out"} if entry.into else set() for entry in TABLE}
    for row in results["rows"]:
        assert row["contenders"].keys() == {"danceopd", "eager", "tuned", "copy"} | into[row["op"]]
        assert row["speedup_over"].keys() == {"eager", "tuned"}
        assert row["elements"] * 2 == row["bytes_per_tensor"] and row["dtype"] == "bfloat16"
        assert row["rounds"] == 2
        for contender in row["contenders"].values():
            assert 0.0 < contender["us_p10"] <= contender["us"] <= contender["us_p90"]
            moved = row["bytes_per_element"] * row["elements"]
            assert contender["gb_per_s"] == pytest.approx(moved / contender["us"] / 1e3, rel=2e-3)
            assert ("graph_us" in contender) == (device == "cuda")
    lines = list(csv.DictReader(out.with_suffix(".csv").read_text().splitlines()))
    assert len(lines) == sum(4 + len(into[row["op"]]) for row in results["rows"])
    assert {line["contender"] for line in lines} == {"danceopd", "danceopd, out", "eager", "tuned", "copy"}
    if find_spec("matplotlib"):
        assert out.with_name("run-bfloat16.png").stat().st_size > 10_000
    else:
        assert 'matplotlib is missing; pip install ".[bench]"' in told


def test_every_op_that_takes_out_is_timed_with_it() -> None:
    for entry in TABLE:
        takes = "out" in inspect.signature(getattr(ops, entry.op)).parameters
        assert (entry.into is not None) == takes, entry.name
        if entry.into is not None:
            operands = make_operands(1, 4096, torch.float32, torch.device("cpu"))[0]
            assert entry.into(operands) is (operands.x if entry.op.endswith("step") else operands.out)


def test_tuned_code_races_the_call_with_out() -> None:
    times = {"danceopd": [4e-6], "danceopd, out": [2e-6], "eager": [8e-6], "tuned": [3e-6], "copy": [1e-6]}
    row = report.make_row("guide", torch.float32, 4096, 1024, 3, times, {}, dict.fromkeys(times, 0))
    assert row["speedup_over"] == {"eager": 2.0, "tuned": 1.5}
    console = Console(file=io.StringIO(), width=160)
    report.print_tables([row], console)
    table = console.file.getvalue()
    assert "out µs" in table and "it races our call that does the same" in table


def test_replays_have_columns_of_their_own() -> None:
    times = {"danceopd": [2e-6, 2e-6], "eager": [6e-6, 6e-6], "copy": [1e-6, 1e-6]}
    replays = {"danceopd": [1e-6, 1e-6], "eager": [5e-7, 5e-7], "copy": [5e-7, 5e-7]}
    row = report.make_row("guide", torch.float32, 4096, 1024, 3, times, replays, {"danceopd": 4096})
    assert row["speedup_over"] == {"eager": 3.0} and row["graph_speedup_over"] == {"eager": 0.5}
    assert (row["share_of_copy"], row["graph_share_of_copy"]) == (0.5, 0.5)
    assert row["contenders"]["danceopd"]["gb_per_s"] == pytest.approx(12 * 1024 / 2e3, rel=1e-3)
    failed = report.make_row("guide", torch.float32, 8192, 2048, 3, times, {}, {"danceopd": 8192})
    console = Console(file=io.StringIO(), width=160)
    report.print_tables([row, failed], console)
    table = console.file.getvalue()
    assert "graph µs" in table and "0.50" in table and "slower than eager in 0 of 2 rows" in table


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_peak_is_what_a_call_holds_at_most(device: str) -> None:
    x = torch.zeros(1 << 16, device=device)
    one = x.numel() * 4

    def three_at_once(x: torch.Tensor) -> torch.Tensor:
        return (x.exp() + x.sin()).neg_()

    assert measure.peak_bytes(three_at_once, x, x.device) == 3 * one
    assert measure.peak_bytes(lambda x: x.exp().neg_(), x, x.device) == one
    assert measure.peak_bytes(lambda x: x.add_(1.0), x, x.device) < one


def test_a_row_that_takes_long_has_fewer_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def timed(count: int) -> float:
        calls.append(count)
        return 1.0

    assert len(measure.take_turns({"long": timed}, 21, 3e-3)["long"]) == 21
    assert calls == [1] * 2 + [1, 1] * 21  # two to see that one is a turn, and one before each turn
    monkeypatch.setattr(measure, "ENOUGH_SECONDS", -1.0)
    assert len(measure.take_turns({"long": timed}, 21, 3e-3)["long"]) == measure.FEW_ROUNDS
    assert len(measure.take_turns({"long": timed}, 2, 3e-3)["long"]) == 2


def test_a_turn_begins_with_calls_that_are_not_timed() -> None:
    seconds = iter([1e-4] * 4 + [9.0, 2e-4, 9.0, 4e-4])  # to see what a turn is, then two turns

    def timed(count: int) -> float:
        return next(seconds)

    assert measure.take_turns({"op": timed}, 2, 3e-3) == {"op": [2e-4, 4e-4]}


def test_an_interrupted_run_keeps_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = kernel_bench.bench_one, []

    def interrupted(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(kernel_bench, "bench_one", interrupted)
    out = tmp_path / "run.json"
    kernel_bench.main(["--quick", "--ops", "guide", "--sizes", "64", "128", "256", "--out", str(out)])
    assert [row["bytes_per_tensor"] for row in json.loads(out.read_text())["rows"]] == [64, 128]


def test_what_does_not_fit_is_left_out_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = kernel_bench.bench_one

    def full(entry: Entry, forms: Any, size: int, *rest: Any) -> Any:
        if size == 128:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(entry, forms, size, *rest)

    monkeypatch.setattr(kernel_bench, "bench_one", full)
    out = tmp_path / "run.json"
    only = ["--ops", "guide", "--dtypes", "float32", "--sizes", "64", "128", "256"]
    kernel_bench.main(["--quick", *only, "--out", str(out)])
    assert [row["bytes_per_tensor"] for row in json.loads(out.read_text())["rows"]] == [64, 256]
    assert "left out: guide, float32, 128 B" in capsys.readouterr().out


@pytest.mark.parametrize("device", ["gpu", "meta", "cuda:99"])
def test_a_device_that_cannot_be_timed_is_one_sentence(
    device: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        kernel_bench.main(["--device", device])
    assert f"the device {device!r}" in capsys.readouterr().err


def test_sizes_are_read_as_people_write_them() -> None:
    assert [kernel_bench.bytes_of(size) for size in ("512", "4K", "64m", "1G")] == [
        512,
        4096,
        1 << 26,
        1 << 30,
    ]
    for size in ("0", "4 K", "1T", "-4K", "many"):
        with pytest.raises(argparse.ArgumentTypeError, match="not a number of bytes"):
            kernel_bench.bytes_of(size)
