"""Runs shared by several processes of this machine, with something done to one of them on the way."""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import os
import pickle
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch._dynamo  # the optimizer imports it at its first step, which takes seconds
import torch.distributed as dist

from danceopd.training import DanceOPDTrainer, TrainConfig
from tests.training.conftest import ROUTES, TEACHERS
from tests.training.tiny import TinyFamily

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([__name__])  # torch is imported once, and then every process is there at once


class Outcome(NamedTuple):
    """How one process ended: what it returned, or its error's name and text, or by which signal it died."""

    result: Any = None
    error: str = ""
    text: str = ""
    signal: int = 0


def in_processes(folder: Path, work: Callable[..., Any], *, size: int = 2, **arguments: Any) -> list[Outcome]:
    """What ``work(rank, **arguments)`` comes to in each of `size` processes of one group."""
    folder.mkdir(parents=True, exist_ok=True)
    store = folder / "store"
    store.unlink(missing_ok=True)
    _start_server()
    processes = [
        _CONTEXT.Process(target=_rank, args=(rank, size, store, work, arguments)) for rank in range(size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(180)
        assert process.exitcode is not None, f"rank {processes.index(process)} hangs"
    return [
        Outcome(signal=-process.exitcode)
        if process.exitcode
        else pickle.loads((folder / f"store.{rank}").read_bytes())
        for rank, process in enumerate(processes)
    ]


def _start_server() -> None:
    """Have the processes' parent running, with the tests in reach: sys.path comes too late for it."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), before]))
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before


def _rank(rank: int, size: int, store: Path, work: Callable[..., Any], arguments: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    try:
        outcome = Outcome(work(rank, **arguments))
    except Exception as error:
        outcome = Outcome(error=type(error).__name__, text=str(error))
    store.with_name(f"store.{rank}").write_bytes(pickle.dumps(outcome))


def train(
    rank: int, *, run: Path, act: Callable[..., object] | None = None, step: int = 0, **settings: Any
) -> int | None:
    """A run of the tiny family; rank 1 does ``act(trainer)`` in the update after `step`."""
    trainer = make_trainer(run, **settings)
    if act is not None and rank == 1:
        in_update(trainer, step, act)
    return trainer.train().stopped_by


def make_trainer(run: Path, **settings: Any) -> DanceOPDTrainer:
    defaults: dict[str, Any] = {
        "max_steps": 8,
        "batch_size": 3,
        "gradient_accumulation_steps": 1,
        "num_rollout_steps": 4,
        "learning_rate": 1e-2,
        "save_every": 3,
        "ema_decay": 0.9,
        "progress": False,
    }
    config = TrainConfig(output_dir=run, **(defaults | settings))
    return DanceOPDTrainer(family=TinyFamily(), teachers=TEACHERS, routes=ROUTES, config=config)


def in_update(trainer: DanceOPDTrainer, step: int, act: Callable[..., object]) -> None:
    """Have ``act(trainer)`` done once by whichever teacher is asked first in the update after `step`."""
    done: list[int] = []

    def watched(teacher: Any) -> Any:
        def field(sample: Any, sigma: Any, condition: Any) -> Any:
            answer = teacher(sample, sigma, condition)
            if trainer.step == step and not done:
                done.append(step)
                changed = act(trainer)
                return answer if changed is None else answer * changed
            return answer

        return field

    trainer.teachers = [watched(teacher) for teacher in trainer.teachers]


def terminate(trainer: DanceOPDTrainer) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def kill(trainer: DanceOPDTrainer) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang(trainer: DanceOPDTrainer) -> None:
    time.sleep(8)


def fail(trainer: DanceOPDTrainer) -> None:
    raise ValueError("the teacher has left")


def not_a_number(trainer: DanceOPDTrainer) -> float:
    return float("nan")


def disturb(trainer: DanceOPDTrainer) -> None:
    with torch.no_grad():
        next(iter(trainer.weights.masters.values()))[0, 0] += 1e-3
