"""What the tables of docs/scaling.md are computed from: sizes of models, and the plans of runs.

    python benchmarks/scaling_model.py

Nothing is measured and no weights are read: models are built on torch's meta device, from the sizes that
diffusers' classes have by default, and the work of each process is read from the plan of its updates.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence

import diffusers
import torch
from torch import nn

from danceopd.families.flux1 import Flux1
from danceopd.families.lora import choose_layers
from danceopd.families.qwen_image import QwenImage
from danceopd.families.z_image import ZImage
from danceopd.flow import QUERY_LAWS
from danceopd.training import Plan

MODELS: dict[str, tuple[Callable[[], nn.Module], Sequence[str]]] = {
    "Z-Image": (diffusers.ZImageTransformer2DModel, ZImage.targets),
    "FLUX.1": (diffusers.FluxTransformer2DModel, Flux1.targets),
    "Qwen-Image": (diffusers.QwenImageTransformer2DModel, QwenImage.targets),
}
RANK, UPDATES = 128, 400
BANDWIDTHS = {"1 GB/s (10 Gbit Ethernet)": 1e9, "25 GB/s": 25e9, "200 GB/s": 200e9}
GB = 1e9
# In forwards of one sample: student forward and backward, with checkpointing one more forward, and a teacher.
MATCH = 1 + 2 + 1 + 1


def main() -> None:
    """Print the tables in Markdown."""
    trained = {name: _numbers(make, targets) for name, (make, targets) in MODELS.items()}
    _print(["", "weights", "LoRA", "masters", "gradients", "AdamW", "sum", "full student"], _memory(trained))
    _print(["processes", *BANDWIDTHS], _exchange(trained))
    _print(["samples per process", *(f"{size} processes" for size in (2, 8, 64))], _waiting())


def _numbers(make: Callable[[], nn.Module], targets: Sequence[str]) -> tuple[int, int]:
    """Of the model, and of a LoRA on its targets."""
    with torch.device("meta"):
        model = make()
    layers = [model.get_submodule(name) for name in choose_layers(model, targets)]
    lora = sum(RANK * (layer.in_features + layer.out_features) for layer in layers)  # type: ignore[operator]
    return sum(value.numel() for value in model.parameters()), lora


def _memory(trained: dict[str, tuple[int, int]]) -> Iterator[list[str]]:
    for name, (weights, lora) in trained.items():
        parts = [2 * weights, 2 * lora, 4 * lora, 4 * lora, 8 * lora]
        full = (2 + 4 + 4 + 8) * weights
        yield [name, *(f"{part / GB:.2f}" for part in [*parts, sum(parts)]), f"{full / GB:.0f}"]


def _exchange(trained: dict[str, tuple[int, int]]) -> Iterator[list[str]]:
    """Seconds of a ring all-reduce: 2 (P - 1) / P times the bytes."""
    for name, (_, lora) in trained.items():
        for size in (2, 8, 64):
            seconds = 2 * (size - 1) / size * 4 * lora
            yield [f"{name}, {size}", *(f"{seconds / rate:.3f} s" for rate in BANDWIDTHS.values())]


def _waiting() -> Iterator[list[str]]:
    """Mean over processes, divided by their largest, of an update's work."""
    for samples in (4, 16, 64):
        yield [str(samples), *(_efficiency(samples, size) for size in (2, 8, 64))]


def _efficiency(samples: int, size: int) -> str:
    plan = Plan(
        seed=0,
        route_weights=(1.0, 1.0),
        route_sizes=(1000, 1000),
        query=QUERY_LAWS["low"],
        num_steps=16,
        drop_probability=0.0,
        slots_per_rank=samples,
        num_ranks=size,
    )
    mean, largest = [], []
    for step in range(max(20, UPDATES // size)):
        work = []
        for rank in range(size):
            stops = [slot.states[0] for slot in plan.step(step, rank)]
            # Forwards are as long as they are wide: slots of a rollout are refilled.
            work.append(sum(stops) + MATCH * samples)
        mean.append(statistics.fmean(work))
        largest.append(max(work))
    return f"{statistics.fmean(mean) / statistics.fmean(largest):.0%}"


def _print(head: Sequence[str], rows: Iterator[list[str]]) -> None:
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


if __name__ == "__main__":
    main()
