"""A run of a pretrained family knows its files by content: base, encoders, LoRAs, checkpoints, images."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from danceopd.families import Student, StudentConfig, Teacher, load_family
from danceopd.training import ConfigError, DanceOPDTrainer
from tests.families.parity import folder_of
from tests.families.test_training import make_run, small_sources, trainer_of

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def smaller() -> Iterator[None]:
    with small_sources():
        yield


def _flip(path: Path) -> bytes:
    """The content before; afterwards one bit of it is another."""
    before = path.read_bytes()
    path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    return before


def test_a_changed_file_of_any_part_is_refused_by_name(tmp_path: Path) -> None:
    base = Path(shutil.copytree(folder_of("flux2"), tmp_path / "base"))
    config = make_run("flux2", tmp_path, family=str(base), max_steps=1)
    trainer_of(config).train()

    loras = {name: Path(str(config.teachers[number].lora)) for number, name in enumerate(["one", "two"])}
    (transformer,) = (base / "transformer").glob("*.safetensors")
    (vae,) = (base / "vae").glob("*.safetensors")
    expected = {
        loras["two"]: f"teacher 'two' is made of other weights .* \\(lora/{loras['two'].name}: now",
        loras["one"]: "teacher 'one' is made of other weights",
        transformer: f"teacher 'one' is made of other weights .* \\(transformer/{transformer.name}: now",
        vae: f"the student is made of other weights .* \\(vae/{vae.name}: now",
        tmp_path / "source1.png": "the data of route 'two' is not what it was",
    }
    for path, words in expected.items():
        if path.suffix == ".png":
            before = path.read_bytes()
            shutil.copyfile(tmp_path / "source0.png", path)
        else:
            before = _flip(path)
        with pytest.raises(ConfigError, match=words):
            trainer_of(config).find_start()
        path.write_bytes(before)
    assert trainer_of(config).find_start() is not None


@pytest.mark.parametrize("kind", ["lora", "checkpoint"])
def test_a_file_that_vanishes_while_the_run_starts_is_one_sentence(tmp_path: Path, kind: str) -> None:
    config = make_run("flux2", tmp_path)
    place = Path(str(config.teachers[1].lora))
    if kind == "checkpoint":
        place = Path(shutil.copytree(folder_of("flux2") / "transformer", tmp_path / "other"))
        teachers = [config.teachers[0], Teacher("two", checkpoint=str(place)), config.teachers[2]]
        config = dataclasses.replace(config, teachers=teachers)
    family = load_family(config.family, resolution=config.resolution)
    make_student = family.student

    def student(*arguments: Any) -> Student:
        """Made before the teachers, and after their files were looked at."""
        shutil.rmtree(place) if place.is_dir() else place.unlink()
        return make_student(*arguments)

    family.student = student  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"' is not there") as caught:
        DanceOPDTrainer(family=family, teachers=config.teachers, routes=config.routes, config=config)
    assert str(place) in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_the_files_of_each_kind_of_model(tmp_path: Path) -> None:
    base = folder_of("flux2")
    family = load_family(str(base), resolution=64)
    transformer = set(family.files(Teacher("base")))
    assert transformer == {"transformer/config.json", "transformer/diffusion_pytorch_model.safetensors"}
    other = Teacher("other", checkpoint=str(base))
    assert set(family.files(other)) == {"config.json", "diffusion_pytorch_model.safetensors"}
    single = base / "transformer/diffusion_pytorch_model.safetensors"
    assert family.files(Teacher("file", checkpoint=str(single))) == {single.name: single}

    student = family.files(StudentConfig())
    assert transformer < student.keys() and {name.partition("/")[0] for name in student} > {
        "vae",
        "text_encoder",
    }
    started = family.files(StudentConfig(init={"other": 1.0, str(base): 0.5}, kind="full"), [other])
    assert {name for name in started if name.startswith("start ")} == {
        f"start {number}/{name}" for number in (0, 1) for name in family.files(other)
    }
    with pytest.raises(ValueError, match=r"the LoRA '.*gone' is not there"):
        family.files(Teacher("gone", lora=str(tmp_path / "gone")))
