"""How it is timed: clocks, turns, graph replays, and the most memory that a call holds."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler tells of every start and stop otherwise

Form = Callable[[Any], object]
Timer = Callable[[int], float]
"""From a number of calls to seconds per call."""

FEW_ROUNDS, ENOUGH_SECONDS = 5, 2.0
WARM_CALLS = 10  # a CPU's last cache takes that many to hold what one contender touches


def sets_past_the_l2(touched: int, device: torch.device) -> int:
    """How many sets of operands, of so many bytes each, no cache of a GPU can hold; 1 on the CPU."""
    if device.type != "cuda":
        return 1
    return max(1, math.ceil(2 * torch.cuda.get_device_properties(device).L2_cache_size / touched))


def timer(form: Form, sets: Sequence[Any], device: torch.device) -> Timer:
    """Time calls that go through the sets in turn.

    As many results are kept as there are sets, so that they go round as the operands do.
    """
    kept: deque[object] = deque(maxlen=len(sets))

    def run(calls: int) -> None:
        for operands in islice(cycle(sets), calls):
            kept.append(form(operands))

    if device.type == "cuda":
        return lambda calls: _device_seconds(lambda: run(calls)) / calls
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter

    def timed(calls: int) -> float:
        begin = clock()
        run(calls)
        return (clock() - begin) / calls

    return timed


def graph_timer(form: Form, sets: Sequence[Any]) -> Timer:
    """Time the replays of a CUDA graph that goes through the sets at least once, and 20 calls or more.

    Raises:
        RuntimeError: where the form cannot be captured.
    """
    calls_per_graph = len(sets) * math.ceil(20 / len(sets))
    kept: deque[object] = deque(maxlen=len(sets))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for operands in islice(cycle(sets), 3):
            form(operands)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for operands in islice(cycle(sets), calls_per_graph):
            kept.append(form(operands))

    def timed(calls: int) -> float:
        replays = math.ceil(calls / calls_per_graph)

        def run() -> None:
            for _ in range(replays):
                graph.replay()

        return _device_seconds(run) / (replays * calls_per_graph)

    return timed


def _device_seconds(run: Callable[[], None]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def take_turns(timers: dict[str, Timer], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Seconds per call of each contender in each round; a turn is as many calls as take the given seconds.

    A turn begins with calls that are not timed: what lies in the caches, and which memory the allocator has
    at hand, is then the contender's own doing and not that of the one before.
    After `ENOUGH_SECONDS` no more than `FEW_ROUNDS` are gone through: long calls scatter less.
    """
    calls = {}
    for name, timed in timers.items():
        timed(1)
        rough = timed(1)
        if rough < seconds:
            timed(3)
            rough = timed(5)
        calls[name] = max(1, int(seconds / max(rough, 1e-7)))
    times: dict[str, list[float]] = {name: [] for name in timers}
    begin = time.perf_counter()
    for done in range(rounds):
        if done >= FEW_ROUNDS and time.perf_counter() - begin > ENOUGH_SECONDS:
            break
        for name, timed in timers.items():
            timed(min(calls[name], WARM_CALLS))
            times[name].append(timed(calls[name]))
    return times


def peak_bytes(form: Form, operands: Any, device: torch.device) -> int:
    """The most that one call holds beyond its operands, as torch's allocator sees it.

    On CUDA the allocator keeps count; on the CPU the profiler reports every allocation and release.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        form(operands)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = form(operands)
    del result
    assert profiler.profiler is not None
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most
