"""Every family from data files to a student in plain diffusers: train, stop, resume, reload, sample."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from danceopd.families import StudentConfig, Teacher, load_family
from danceopd.families.pretrained import PretrainedFamily
from danceopd.sampling import sample
from danceopd.training import DanceOPDTrainer, Route, RunConfig, load_student
from tests.families import tiny
from tests.families.parity import error, folder_of
from tests.families.tiny.calls import EDITS, NEEDS_SOURCE, picture, small_sources
from tests.families.tiny.loras import make_lora
from tests.families.tiny.processors import without_torchvision
from tests.families.tiny.words import PROMPTS

torch.set_num_threads(1)


def write_data(kind: str, folder: Path) -> tuple[Path, Path]:
    """Prompts in CSV, and edits (or more prompts) in JSON lines; two sizes, so that updates mix shapes."""
    plain, edits = folder / "prompts.csv", folder / "edits.jsonl"
    sources = [(64, 64), (48, 80)]
    for number, size in enumerate(sources):
        picture(number, size).save(folder / f"source{number}.png")

    def row(number: int, edit: bool) -> dict[str, Any]:
        size = sources[number % 2]
        cells: dict[str, Any] = {"prompt": PROMPTS[number % 3], "height": size[0], "width": size[1]}
        return cells | ({"source": f"source{number % 2}.png"} if edit else {})

    rows = [row(number, kind in NEEDS_SOURCE) for number in range(4)]
    plain.write_text(
        "\n".join([",".join(rows[0]), *(",".join(f'"{value}"' for value in r.values()) for r in rows)])
    )
    edits.write_text("\n".join(json.dumps(row(number, kind in EDITS)) for number in range(3)))
    return plain, edits


def make_run(kind: str, folder: Path, **settings: Any) -> RunConfig:
    plain, edits = write_data(kind, folder)
    transformer = tiny.build(kind).transformer
    loras = [make_lora(transformer, folder / f"lora{seed}", seed=seed).path for seed in (1, 2)]
    defaults: dict[str, Any] = {
        "family": str(folder_of(kind)),
        "output_dir": folder / "run",
        "resolution": 64,
        "teachers": [
            Teacher("one", lora=str(loras[0])),
            Teacher("two", lora=str(loras[1]), scale=0.8),
            Teacher("guided", guidance_scale=3.0),
        ],
        "routes": [
            Route("one", data=str(plain)),
            Route("two", data=str(edits)),
            Route("guided", data=str(plain), weight=2.0),
        ],
        "student": StudentConfig(rank=4, init="one"),
        "max_steps": 3,
        "batch_size": 3,
        "gradient_accumulation_steps": 2,
        "num_rollout_steps": 3,
        "query": "uniform",
        "drop_condition": 0.3,
        "learning_rate": 1e-3,
        "save_every": 1,
        "progress": False,
    }
    return RunConfig(**(defaults | settings))


def trainer_of(config: RunConfig) -> DanceOPDTrainer:
    family = load_family(config.family, resolution=config.resolution, dtype=getattr(torch, config.dtype))
    return DanceOPDTrainer(family=family, teachers=config.teachers, routes=config.routes, config=config)


def metrics(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "time"} for line in lines]


@pytest.fixture(autouse=True)
def smaller_and_without_torchvision() -> Iterator[None]:
    with small_sources(), without_torchvision():
        yield


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_a_family_from_data_to_diffusers(kind: str, tmp_path: Path) -> None:
    config = make_run(kind, tmp_path)
    whole = trainer_of(config)
    result = whole.train()
    assert result.step == 3 and result.exported == tmp_path / "run" / "pytorch_lora_weights.safetensors"
    assert result.exported.stat().st_mode == (tmp_path / "run" / "config.yaml").stat().st_mode
    lines = metrics(tmp_path / "run")
    assert all(0 < line["loss"] < 100 for line in lines)
    assert {name for line in lines for name in line["samples"]} == {"one", "two", "guided"}

    # The same run with pictures, stopped after one update and continued by another process's trainer.
    parts = make_run(
        kind,
        tmp_path,
        output_dir=tmp_path / "parts",
        cache_dir=str(tmp_path / "run" / "cache"),
        validation={"every": 2, "rows": 1, "num_steps": 2, "guidance_scale": 2.0},
    )
    first = trainer_of(parts)
    _train_one(first)
    again = trainer_of(parts)
    assert again.train().step == 3
    assert metrics(tmp_path / "parts") == lines
    file = "pytorch_lora_weights.safetensors"
    one, other = (load_file(tmp_path / name / file) for name in ("run", "parts"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)

    # The student as the package reads it, and as plain diffusers does.
    loaded = load_student(tmp_path / "run")
    family = loaded.family
    assert isinstance(family, PretrainedFamily)
    example = whole.data[1][0]
    shape = family.shape(example)
    noise = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    inputs = (noise, torch.tensor([0.3, 0.8]), family.encode([example, example]))
    with torch.no_grad():
        wanted = loaded.field(*inputs)
        pipeline: Any = tiny.load(folder_of(kind))
        base = loaded.field.predict(pipeline.transformer, *inputs)  # type: ignore[attr-defined]
        pipeline.load_lora_weights(tmp_path / "run")
        plain = loaded.field.predict(pipeline.transformer, *inputs)  # type: ignore[attr-defined]
    assert error(plain, wanted) < 5e-6 < error(base, wanted)

    images = sample(
        family, loaded.field, [example.prompt], sources=[example.sources], size=example.size, num_steps=2
    )
    assert images.shape == (1, 3, *example.size) and images.float().std() > 0


def test_pictures_of_prompts_are_encoded_beside_the_routes_and_leave_no_encoder(tmp_path: Path) -> None:
    config = make_run(
        "flux2", tmp_path, max_steps=1, validation={"prompts": ["a fox", "a boat"], "num_steps": 2}
    )
    trainer = trainer_of(config)
    trainer.train()
    with Image.open(tmp_path / "run" / "grids" / "step-00000001.png") as image:
        columns = "one, two, guided, student, step 1"
        assert image.info["Description"] == f"Columns: {columns}. Rows: a fox; a boat."
    assert isinstance(trainer.family, PretrainedFamily) and trainer.family._encoder._pipe is None


def test_prompts_alone_are_refused_where_a_source_is_needed(tmp_path: Path) -> None:
    config = make_run("qwen-image-edit", tmp_path, validation={"prompts": ["a fox"]})
    with pytest.raises(ValueError, match="sources must hold one image"):
        trainer_of(config)


def _train_one(trainer: DanceOPDTrainer) -> None:
    """Ends like a run that is told to stop after its first update."""
    update = trainer._one_update

    def stop_after() -> dict[str, Any]:
        line = update()
        os.kill(os.getpid(), signal.SIGTERM)
        return line

    trainer._one_update = stop_after  # type: ignore[method-assign]
    assert trainer.train().stopped_by == signal.SIGTERM
