from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from danceopd.families import usable_device
from danceopd.training import ConfigError, Ranks, list_checkpoints, load_checkpoint, read_metrics
from danceopd.training import distributed as distributed_module
from danceopd.training.distributed import checksum
from danceopd.training.rehearsal import Rehearsal
from danceopd.training.roll_call import rank_timeout
from tests.training.processes import (
    disturb,
    fail,
    hang,
    in_processes,
    kill,
    make_trainer,
    not_a_number,
    terminate,
    train,
)
from tests.training.runs import ENDLESS

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run by one process, which sees the whole global batch."""
    run = tmp_path_factory.mktemp("alone") / "run"
    make_trainer(run, batch_size=2, gradient_accumulation_steps=3).train()
    return run


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    assert [outcome.error for outcome in in_processes(folder, train, run=folder / "run")] == ["", ""]
    return folder / "run"


def tensors(run: Path, step: int = 8) -> dict[str, Tensor]:
    folder = run / f"checkpoints/step-{step:08d}"
    return {f"{p.stem}.{name}": t for p in folder.glob("*.safetensors") for name, t in load_file(p).items()}


def assert_close(one: Path, other: Path) -> None:
    first, second = tensors(one), tensors(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(
            second[name], tensor, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


def without_time(run: Path) -> list[dict[str, Any]]:
    lines = read_metrics(run / "metrics.jsonl")
    return [{key: value for key, value in line.items() if key != "time"} for line in lines]


def test_two_processes_do_what_one_does_with_the_same_global_batch(alone: Path, shared: Path) -> None:
    assert_close(alone, shared)
    for one, two in zip(without_time(alone), without_time(shared), strict=True):
        assert one.keys() == two.keys()
        for key in ("step", "samples", "sigma", "forwards", "learning_rate"):
            assert one[key] == two[key]
        for route, histogram in one["histograms"].items():
            assert two["histograms"][route]["count"] == histogram["count"]
            assert two["histograms"][route]["error"] == pytest.approx(histogram["error"], rel=1e-4)
        assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
        assert (two["loss"], two["grad_norm"]) == pytest.approx((one["loss"], one["grad_norm"]), rel=1e-4)


def test_two_shared_runs_are_equal_bit_for_bit(shared: Path, tmp_path: Path) -> None:
    in_processes(tmp_path, train, run=tmp_path / "run")
    first, second = tensors(shared), tensors(tmp_path / "run")
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert without_time(shared) == without_time(tmp_path / "run")


def test_a_run_goes_on_with_another_number_of_processes(alone: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert [outcome.error for outcome in in_processes(tmp_path, train, run=run, max_steps=3)] == ["", ""]
    assert make_trainer(run, batch_size=6, max_steps=6).train().step == 6
    assert [outcome.error for outcome in in_processes(tmp_path, train, run=run)] == ["", ""]
    assert_close(alone, run)
    with pytest.raises(ConfigError, match="made with processes=2 but 1 is asked for"):
        make_trainer(run).train()


def test_a_signal_to_one_process_stops_all_with_a_checkpoint(tmp_path: Path, shared: Path) -> None:
    run = tmp_path / "run"
    outcomes = in_processes(tmp_path, train, run=run, act=terminate, step=4)
    assert [outcome.result for outcome in outcomes] == [signal.SIGTERM] * 2
    assert load_checkpoint(list_checkpoints(run / "checkpoints")[-1]).step == 5
    in_processes(tmp_path, train, run=run)
    ended = tensors(run)
    assert all(torch.equal(tensor, ended[name]) for name, tensor in tensors(shared).items())


def test_nan_on_one_process_ends_all_with_the_same_sentence(tmp_path: Path) -> None:
    outcomes = in_processes(tmp_path, train, run=tmp_path / "run", act=not_a_number, step=4)
    assert {outcome.error for outcome in outcomes} == {"DivergedError"}
    assert len({outcome.text for outcome in outcomes}) == 1
    assert outcomes[0].text.startswith("loss became nan in update 5 on route '")
    assert load_checkpoint(list_checkpoints(tmp_path / "run/checkpoints")[-1]).step == 4


def test_an_error_in_one_process_ends_all_and_is_told_by_all(tmp_path: Path) -> None:
    first, second = in_processes(tmp_path, train, run=tmp_path / "run", act=fail, step=4)
    assert (second.error, second.text) == ("ValueError", "the teacher has left")
    assert first.error == "RankError"
    assert first.text == "rank 1 of 2 has failed, so all end: ValueError: the teacher has left"
    assert load_checkpoint(list_checkpoints(tmp_path / "run/checkpoints")[-1]).step == 4


def _at_a_width(rank: int, *, run: Path, widths: tuple[int, int]) -> int | None:
    def width(self: Rehearsal, *arguments: Any) -> int:
        if not widths[rank]:
            raise MemoryError
        return widths[rank]

    Rehearsal.width = width  # type: ignore[method-assign]
    trainer = make_trainer(run, rollout_batch_size="auto", max_steps=1)
    trainer.train()
    return trainer.rollout_batch_size


def test_the_smallest_measured_width_holds_for_all(tmp_path: Path) -> None:
    outcomes = in_processes(tmp_path, _at_a_width, run=tmp_path / "run", widths=(3, 2))
    assert [outcome.result for outcome in outcomes] == [2, 2]
    (checkpoint,) = list_checkpoints(tmp_path / "run/checkpoints")
    assert load_checkpoint(checkpoint).made_of["rollout_batch_size"] == 2


def test_memory_that_ends_while_one_process_measures_is_told_by_all(tmp_path: Path) -> None:
    first, second = in_processes(tmp_path, _at_a_width, run=tmp_path / "run", widths=(3, 0))
    assert second.error == "OutOfMemoryError"
    assert first.error == "RankError" and second.text in first.text


def test_a_killed_process_ends_the_other_with_a_checkpoint(tmp_path: Path) -> None:
    first, second = in_processes(tmp_path, train, run=tmp_path / "run", act=kill, step=4)
    assert second.signal == signal.SIGKILL
    assert first.error == "RankError" and "another process of this run is gone" in first.text
    assert load_checkpoint(list_checkpoints(tmp_path / "run/checkpoints")[-1]).step == 4


def test_a_process_that_hangs_is_named(tmp_path: Path) -> None:
    first, second, third = in_processes(tmp_path, _in_a_hurry, size=3, run=tmp_path / "run", act=hang, step=4)
    assert first.error == "RankError" and first.text.startswith("no answer from rank 1: another process")
    assert third.error == "RankError" and third.text.startswith("rank 0 tells which; ")
    assert second.error == "RankError"
    assert load_checkpoint(list_checkpoints(tmp_path / "run/checkpoints")[-1]).step == 4


def _in_a_hurry(rank: int, **arguments: Any) -> int | None:
    os.environ["DANCEOPD_RANK_TIMEOUT"] = "0.05"
    return train(rank, **arguments)


@pytest.mark.parametrize("minutes", ["soon", "0", "-1", "nan", "inf", ""])
def test_how_long_to_wait_is_a_number(minutes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANCEOPD_RANK_TIMEOUT", minutes)
    with pytest.raises(
        ConfigError, match=r"DANCEOPD_RANK_TIMEOUT=.* is no number of minutes above 0: set one"
    ):
        rank_timeout()


def test_weights_that_differ_are_never_saved(tmp_path: Path) -> None:
    outcomes = in_processes(tmp_path, train, run=tmp_path / "run", act=disturb, step=4)
    assert {outcome.error for outcome in outcomes} == {"RanksDifferError"}
    told = "the trained student on rank 1 is not that of rank 0, beginning with 'inner.weight'"
    assert told in outcomes[0].text
    (saved,) = list_checkpoints(tmp_path / "run/checkpoints")
    assert load_checkpoint(saved).step == 3


def _from_another_start(rank: int, run: Path) -> None:
    trainer = make_trainer(run)
    if rank:
        disturb(trainer)
    trainer.train()


def test_all_start_from_the_weights_of_the_first(tmp_path: Path, shared: Path) -> None:
    in_processes(tmp_path, _from_another_start, run=tmp_path / "run")
    ended = tensors(tmp_path / "run")
    assert all(torch.equal(tensor, ended[name]) for name, tensor in tensors(shared).items())


def _with_another_base(rank: int, run: Path) -> None:
    trainer = make_trainer(run)
    frozen = torch.nn.Parameter(torch.full((2,), float(rank)), requires_grad=False)
    trainer.student.module.register_parameter("frozen", frozen)
    trainer.train()


def test_another_base_is_refused(tmp_path: Path) -> None:
    outcomes = in_processes(tmp_path, _with_another_base, run=tmp_path / "run")
    assert {outcome.error for outcome in outcomes} == {"RanksDifferError"}
    assert "the student on rank 1 is not that of rank 0, beginning with 'frozen'" in outcomes[1].text


def _refused(rank: int, run: Path) -> None:
    make_trainer(run, seed=rank).train()


def test_a_folder_that_the_first_refuses_ends_all(tmp_path: Path, shared: Path) -> None:
    outcomes = in_processes(tmp_path, train, run=shared, seed=5)
    assert [outcome.error for outcome in outcomes] == ["ConfigError", "RankError"]
    assert "seed=0 but 5 is asked for" in outcomes[0].text and outcomes[0].text in outcomes[1].text


def _encode(rank: int, run: Path) -> None:
    trainer = make_trainer(run)
    prepare = trainer.family.prepare

    def slow(*args: Any, **options: Any) -> Any:
        with (run.parent / "order").open("a") as file:
            if rank == 0:
                time.sleep(0.2)
            file.write(f"{rank}")
        return prepare(*args, **options)

    trainer.family.prepare = slow  # type: ignore[method-assign]
    trainer.prepare()


def test_the_first_encodes_before_the_others(tmp_path: Path) -> None:
    in_processes(tmp_path, _encode, run=tmp_path / "run", size=3)
    order = (tmp_path / "order").read_text()
    assert order[0] == "0" and sorted(order) == ["0", "1", "2"]


def _sums(rank: int) -> list[list[float] | None]:
    distributed_module._BUCKET = 4
    ranks = Ranks(CPU)
    weights = {name: torch.zeros(size) for name, size in (("a", 3), ("b", 2), ("c", 9), ("d", 1))}
    for place, (name, weight) in enumerate(weights.items()):
        if name == "a" or (name == "c" and rank == 1):
            weight.grad = torch.full_like(weight, 10.0**rank * (place + 1))
    ranks.sum_gradients(weights)
    return [None if weight.grad is None else weight.grad.tolist() for weight in weights.values()]


def test_gradients_are_summed_where_any_process_has_one(tmp_path: Path) -> None:
    outcomes = in_processes(tmp_path, _sums)
    assert [outcome.result for outcome in outcomes] == [[[11.0] * 3, None, [30.0] * 9, None]] * 2


def _errors_told(rank: int) -> str:
    ranks = Ranks(CPU)
    try:
        ranks.first(lambda: {}["missing"])
    except KeyError:
        ranks.gather(rank)  # still in step with the others
        raise
    except RuntimeError as error:
        return f"{error} {ranks.gather(rank)}"
    return ""


def test_what_fails_on_the_first_alone_is_told_to_all(tmp_path: Path) -> None:
    first, second = in_processes(tmp_path, _errors_told)
    assert first.error == "KeyError"
    assert second.result == "rank 0 of 2 has failed, so all end: KeyError: 'missing' [0, 1]"


def test_one_process_never_touches_torch_distributed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: Any, **options: Any) -> None:
        raise AssertionError("torch.distributed was touched")

    for name in ("init_process_group", "new_group", "all_reduce", "all_gather", "broadcast", "barrier"):
        monkeypatch.setattr(dist, name, forbidden)
    assert make_trainer(tmp_path / "run", max_steps=2).train().step == 2


def test_cuda_is_the_gpu_of_the_local_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert usable_device("cuda") == torch.device("cuda")
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert usable_device("cuda") == torch.device("cuda", 3)
    assert usable_device("cuda:1") == torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert usable_device("cuda") == torch.device("cuda", 0)


@given(
    st.lists(st.integers(-(2**31), 2**31 - 1), min_size=2, max_size=50), st.data(), st.sampled_from([1, 2, 4])
)
def test_a_checksum_sees_every_flipped_bit_and_exchange(numbers: list[int], data: Any, width: int) -> None:
    tensor = torch.tensor(numbers, dtype=torch.int32)
    dtype = {1: torch.uint8, 2: torch.bfloat16, 4: torch.float32}[width]
    before = checksum(tensor.view(dtype))
    place, bit = data.draw(st.integers(0, len(numbers) - 1)), data.draw(st.integers(0, 30))
    flipped = tensor.clone()
    flipped[place] ^= 1 << bit
    assert checksum(flipped.view(dtype)) != before
    other = data.draw(st.integers(0, len(numbers) - 1))
    exchanged = tensor.clone()
    exchanged[place], exchanged[other] = tensor[other], tensor[place]
    if not torch.equal(exchanged, tensor):
        assert checksum(exchanged.view(dtype)) != before


def test_torchrun_trains_and_stops_all_with_one(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(ENDLESS.format(folder=tmp_path))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*launcher, "-m", "danceopd", "train", str(config), "--no-check"],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        metrics = tmp_path / "run/metrics.jsonl"
        while process.poll() is None and not (metrics.is_file() and metrics.stat().st_size):
            time.sleep(0.02)
        os.kill(_rank_of(process.pid, 1), signal.SIGTERM)
        told = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode != 0
    (checkpoint,) = list_checkpoints(tmp_path / "run/checkpoints")
    step = load_checkpoint(checkpoint).step
    again = "the command that started its 2 processes"
    assert f"Stopped after {step} of 100000 updates; to go on: {again}" in told
    assert read_metrics(metrics)[-1]["samples"] == {"local": 2}
    assert json.loads((checkpoint / "state.json").read_text())["run"]["processes"] == 2


def _rank_of(launcher: int, rank: int) -> int:
    """Process id of a rank, of those that a launcher has started."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    wanted = f"LOCAL_RANK={rank}".encode()
    (found,) = [
        int(child) for child in children if wanted in Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
    ]
    return found
