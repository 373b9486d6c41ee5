"""A model family of a few hundred parameters, so that whole runs take a fraction of a second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from danceopd.families import EncodedWhenAsked, Example, Examples, Footprint, RowsOfShape, Student
from danceopd.flow import GuidedField, ModelField, SigmaGrid, VelocityField
from danceopd.training import StudentConfig, Teacher

SHAPE = (3, 4, 4)
SIZE = 48


@dataclass(frozen=True)
class TinyCondition:
    embedding: Tensor  # [B, 4]

    def __len__(self) -> int:
        return len(self.embedding)

    def take(self, rows: Tensor) -> TinyCondition:
        return TinyCondition(self.embedding[rows])

    def concat(self, other: TinyCondition) -> TinyCondition:
        return TinyCondition(torch.cat([self.embedding, other.embedding]))

    def unconditional(self) -> TinyCondition:
        return TinyCondition(torch.zeros_like(self.embedding))

    def to(self, device: torch.device | str) -> TinyCondition:
        return TinyCondition(self.embedding.to(device))


class TinyNet(nn.Module):
    def __init__(self, seed: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner = nn.Linear(SIZE + 5, 8)
        self.outer = nn.Linear(8, SIZE)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
        self.to(dtype)

    def forward(self, sample: Tensor, sigma: Tensor, embedding: Tensor) -> Tensor:
        flat = torch.cat([sample.flatten(1), sigma[:, None], embedding], dim=1)
        return self.outer(torch.tanh(self.inner(flat.to(self.inner.weight.dtype)))).view_as(sample)


def _predict(model: nn.Module, sample: Tensor, sigma: Tensor, condition: TinyCondition) -> Tensor:
    return model(sample, sigma, condition.embedding)


class Numbers:
    """Rows whose prompt is their number, and whose target is an image of it."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> Example:
        pixels = torch.arange(SIZE) * 37 * (row + 1) % 256
        return Example(str(row), target=pixels.view(SHAPE).to(torch.uint8))


class TinyFamily:
    """Experts are seeds: ``checkpoint="3"`` is the net of seed 3, ``"nan"`` a field of NaN."""

    name = "tiny"
    device = torch.device("cpu")

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype

    def shape(self, example: Example) -> tuple[int, ...]:
        return SHAPE

    def grid(self, num_steps: int, shape: Sequence[int]) -> SigmaGrid:
        return SigmaGrid.uniform(num_steps)

    def data(
        self, spec: str, *, route: str | None = None, columns: Mapping[str, str] | None = None
    ) -> Numbers:
        if not spec.isdecimal():
            raise ValueError(f"data must be a number of rows, but got '{spec}'; say how many.")
        return Numbers(int(spec))

    def shapes(self, data: Examples) -> RowsOfShape:
        return {SHAPE: range(len(data))}

    def footprint(self, student: StudentConfig, teachers: Sequence[Teacher]) -> Footprint:
        numbers = sum(parameter.numel() for parameter in TinyNet(0, self.dtype).parameters())
        models = (1 + len(teachers)) * numbers * self.dtype.itemsize
        return Footprint(models, elsewhere=0, encoders=0, trained=numbers)

    def files(self, model: Teacher | StudentConfig, teachers: Sequence[Teacher] = ()) -> dict[str, Path]:
        name = model.checkpoint if isinstance(model, Teacher) else str(model.init)
        if name is None or name.isdecimal() or name in ("base", "nan"):
            return {}
        return {"net": Path(name)}

    def encode(self, examples: Sequence[Example]) -> TinyCondition:
        numbers = torch.tensor([[float(example.prompt) + 1.0] for example in examples])
        return TinyCondition(torch.sin(numbers * torch.arange(1.0, 5.0)))

    def prepare(
        self, data: Sequence[Examples], folder: Path, *, targets: bool = False, masks: bool = False
    ) -> list[EncodedWhenAsked]:
        return [EncodedWhenAsked(self, examples, SHAPE, self._latent) for examples in data]

    def guided(self, field: VelocityField, scale: float) -> VelocityField:
        return field if scale == 1.0 else GuidedField(field, scale)

    def teacher(self, teacher: Teacher) -> VelocityField:
        if teacher.checkpoint == "nan":
            return lambda sample, sigma, condition: torch.full_like(sample, float("nan"))
        field = ModelField(self._net(teacher.checkpoint).requires_grad_(False), _predict)
        return self.guided(field, teacher.guidance_scale)

    def student(self, config: StudentConfig, teachers: Sequence[Teacher] = ()) -> Student:
        net = self._net(None if config.init == "base" else config.init)

        def export(directory: Path, parameters: Mapping[str, Tensor]) -> Path:
            save_file(dict(parameters), directory / "student.safetensors")
            return directory / "student.safetensors"

        return Student(net, ModelField(net, _predict), export)

    def restored_student(self, config: StudentConfig, trained: Mapping[str, Tensor]) -> Student:
        return self.student(StudentConfig())

    def decode(self, sample: Tensor) -> Tensor:
        return (sample.clamp(-1, 1) * 127.5 + 127.5).to(torch.uint8)

    def release_encoders(self) -> None:
        pass

    def _latent(self, image: Tensor) -> Tensor:
        return image.float() / 127.5 - 1

    def _net(self, checkpoint: str | None) -> TinyNet:
        if checkpoint is not None and not checkpoint.isdecimal():
            net = TinyNet(0, self.dtype)
            net.load_state_dict(load_file(checkpoint))
            return net
        return TinyNet(int(checkpoint or 0), self.dtype)
