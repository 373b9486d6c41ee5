"""Every file of configs/ is a run: with tiny models and files in place of its paths, it makes an update."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from danceopd.families import load_family
from danceopd.flow import QUERY_LAWS
from danceopd.methods import METHODS
from danceopd.training import DanceOPDTrainer, TrainConfig, load_run_config
from danceopd.training.config import as_mapping
from tests.families import tiny
from tests.families.parity import folder_of
from tests.families.tiny.calls import picture, small_sources
from tests.families.tiny.loras import make_lora
from tests.families.tiny.processors import without_torchvision
from tests.families.tiny.words import PROMPTS

torch.set_num_threads(1)

CONFIGS = Path(__file__).parents[1] / "configs"
PLACEHOLDER = "path/to/"
KINDS = {
    "sd35": "sd3",
    "flux1_dev": "flux1-dev",
    "flux1_kontext": "flux1-kontext",
    "flux2": "flux2",
    "flux2_klein": "flux2-klein",
    "qwen_image": "qwen-image",
    "qwen_image_edit": "qwen-image-edit-plus",
    "z_image": "z-image",
    "z_image_omni": "z-image-omni",
}
RECIPE = {
    "learning_rate": 2e-4,
    "max_steps": 3000,
    "gradient_accumulation_steps": 4,
    "max_grad_norm": 1.0,
    "num_rollout_steps": 16,
    "resolution": 1024,
    "dtype": "bfloat16",
    "device": "cuda",
}
DRAWN = (
    "sd35",
    "flux1_kontext",
)  # pictures of these are made; those of the others cost the same seconds again
SMALL = (
    "device=cpu",
    "resolution=64",
    "max_steps=1",
    "num_rollout_steps=2",
    "batch_size=2",
    "progress=false",
)


def placeholders(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, text) of every path that a user is to fill in."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, child in items:
        yield from placeholders(child, f"{key}.{name}".lstrip("."))
    if isinstance(value, str) and value.startswith(PLACEHOLDER):
        yield key, value


def written(kind: str, key: str, text: str, folder: Path, number: int) -> Path:
    """What stands in for a placeholder: a tiny checkpoint, a LoRA of it, or rows by the name's ending."""
    file = folder / Path(text).name
    if key == "family":
        return folder_of(kind)
    if key.endswith(".lora"):
        return make_lora(tiny.build(kind).transformer, folder / file.stem, seed=number).path
    if file.suffix == ".csv":
        file.write_text("\n".join(["prompt,height,width", f'"{PROMPTS[0]}",64,48', f'"{PROMPTS[1]}",,']))
    else:
        picture(number).save(folder / f"source{number}.png")
        rows = [{"prompt": prompt, "source": f"source{number}.png"} for prompt in PROMPTS[:2]]
        file.write_text("\n".join(map(json.dumps, rows)))
    return file


@pytest.mark.parametrize("name", ["shapesworld_local_global", "shapesworld_t2i_edit"])
def test_every_method_is_one_word_of_a_shapesworld_config(name: str, tmp_path: Path) -> None:
    family = load_family("shapesworld")
    for method in METHODS:
        folder = tmp_path / method
        config = load_run_config(CONFIGS / f"{name}.yaml", [f"method={method}", f"output_dir={folder}"])
        trainer = DanceOPDTrainer(
            family=family, teachers=config.teachers, routes=config.routes, config=config
        )
        assert trainer.plan.slots == 24 and trainer.plan.group_size == (8 if method == "flowopd" else 1)


def test_the_size_of_groups_that_nobody_gave_is_stored_with_the_run() -> None:
    """A run continued with another batch size is then refused, not drawn otherwise."""
    for samples, group in ((32, 16), (24, 8), (4, 4), (9, 1)):
        config = TrainConfig(
            output_dir="x", method="flowopd", batch_size=samples, gradient_accumulation_steps=1
        )
        assert as_mapping(config)["method"] == {"name": "flowopd", "group_size": group}


def test_every_config_is_tried() -> None:
    assert {path.stem for path in CONFIGS.iterdir() if not path.stem.startswith("shapesworld")} == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_a_config_has_the_papers_recipe(name: str) -> None:
    config = load_run_config(CONFIGS / f"{name}.yaml")
    assert {key: getattr(config, key) for key in RECIPE} == RECIPE
    assert (config.student.rank, config.student.alpha) == (128, 128)
    assert config.validation is not None and config.validation.rows == 1
    assert config.query_law == QUERY_LAWS["low"] and config.student_guidance_scale == 1.0
    assert {route.teacher for route in config.routes} == {teacher.name for teacher in config.teachers}


@pytest.mark.parametrize("name", KINDS)
def test_a_config_needs_its_paths_only(name: str, tmp_path: Path) -> None:
    kind, path = KINDS[name], CONFIGS / f"{name}.yaml"
    found = dict(placeholders(yaml.safe_load(path.read_text(encoding="utf-8"))))
    filled = [
        f"{key}={written(kind, key, text, tmp_path, number)}"
        for number, (key, text) in enumerate(found.items())
    ]
    folders = (f"output_dir={tmp_path / 'run'}", f"cache_dir={tmp_path / 'cache'}")
    pictures = "validation.num_steps=2" if name in DRAWN else "validation=null"
    config = load_run_config(path, [*filled, *folders, *SMALL, pictures])
    assert PLACEHOLDER not in repr(config)
    with small_sources(), without_torchvision():
        family = load_family(config.family, dtype=torch.bfloat16, resolution=config.resolution)
        trainer = DanceOPDTrainer(
            family=family, teachers=config.teachers, routes=config.routes, config=config
        )
        result = trainer.train()
    drawn = sorted(path.name for path in (tmp_path / "run" / "grids").glob("*.png"))
    assert drawn == (["step-00000000.png", "step-00000001.png"] if name in DRAWN else [])
    (line,) = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert result.exported is not None and result.exported.is_file()
    assert math.isfinite(json.loads(line)["loss"]) and json.loads(line)["grad_norm"] > 0
