"""A model of repeated blocks under adapters, as small as one can be, and a family of such."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch._dynamo.backends.registry import lookup_backend
from torch.utils.checkpoint import checkpoint

from danceopd.families import Student, StudentConfig, Teacher
from danceopd.families.lora import Factors, load_adapter, rest_on
from danceopd.flow import AdapterField, VelocityField
from tests.training.tiny import SIZE, TinyCondition, TinyFamily

WIDTH = 8


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)
        self.outer = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return x + self.outer(torch.tanh(self.inner(x) + time))


class BlockNet(nn.Module):
    def __init__(self, seed: int = 0, blocks: int = 2) -> None:
        super().__init__()
        self.embed = nn.Linear(SIZE + 4, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))
        self.head = nn.Linear(WIDTH, SIZE)
        self.checkpointing = False
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)

    def forward(self, sample: Tensor, sigma: Tensor, embedding: Tensor) -> Tensor:
        x = self.embed(torch.cat([sample.flatten(1), embedding], dim=1))
        time = torch.sin(3.0 * sigma)[:, None]
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, time, use_reentrant=False)
            else:
                x = block(x, time)
        return self.head(x).view_as(sample)


def predict(model: nn.Module, sample: Tensor, sigma: Tensor, condition: TinyCondition) -> Tensor:
    return model(sample, sigma, condition.embedding)


def add_lora(
    model: nn.Module, adapter: str, seed: int, *, layers: Sequence[str], frozen: bool = True
) -> None:
    generator = torch.Generator().manual_seed(seed)
    factors = {
        layer: Factors(
            *(torch.randn(size, generator=generator) * 0.3 for size in ((2, WIDTH), (WIDTH, 2))), 1.0
        )
        for layer in layers
    }
    load_adapter(model, adapter, factors, frozen=frozen)


def shared_model(blocks: int = 2) -> BlockNet:
    """One base with two teachers' adapters, on other layers each, and a student's."""
    model = BlockNet(blocks=blocks).requires_grad_(False)
    inner, outer = ([f"blocks.{i}.{part}" for i in range(blocks)] for part in ("inner", "outer"))
    add_lora(model, "one", 1, layers=inner)
    add_lora(model, "two", 2, layers=outer)
    add_lora(model, "student", 3, layers=[*inner, *outer], frozen=False)
    rest_on(model, "student")
    return model


class BlocksFamily(TinyFamily):
    """Teachers and student are adapters of one base."""

    name = "blocks"

    def __init__(self) -> None:
        super().__init__()
        self.model = shared_model()

    def teacher(self, teacher: Teacher) -> VelocityField:
        field = AdapterField(self.model, teacher.lora, predict)
        return self.guided(field, teacher.guidance_scale)

    def student(self, config: StudentConfig, teachers: Sequence[Teacher] = ()) -> Student:
        self.model.checkpointing = config.gradient_checkpointing

        def export(directory: Path, parameters: Mapping[str, Tensor]) -> Path:
            save_file(dict(parameters), directory / "student.safetensors")
            return directory / "student.safetensors"

        return Student(self.model, AdapterField(self.model, "student", predict), export)


class Counting:
    """A compiler that computes as without it, and counts what it was given."""

    def __init__(self) -> None:
        self.count = 0
        self.backend = "eager"

    def __call__(self, graph: Any, examples: Any) -> Any:
        self.count += 1
        return lookup_backend(self.backend)(graph, examples)
