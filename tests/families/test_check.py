"""The check of a run on a real family: the whole of it, and everything that a user may get wrong."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from danceopd import cli
from danceopd.families import StudentConfig, Teacher
from danceopd.families.checkpoint import ModelCheckpoint
from danceopd.families.pretrained import PretrainedFamily
from danceopd.training import ConfigError, RunConfig, check_run, write_config
from tests.families import tiny
from tests.families.parity import folder_of
from tests.families.test_training import make_run, trainer_of
from tests.families.tiny.calls import small_sources
from tests.families.tiny.loras import make_lora
from tests.families.tiny.processors import without_torchvision

torch.set_num_threads(1)

KIND = "flux2-klein"  # text and editing


def check(config: RunConfig, *overrides: str, command: str = "check") -> Result:
    path = Path(config.output_dir).parent / "config.yaml"
    write_config(config, path)
    return CliRunner().invoke(cli.app, [command, str(path), *overrides])


@pytest.fixture(autouse=True)
def smaller_and_without_torchvision() -> Iterator[None]:
    with small_sources(), without_torchvision():
        yield


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_every_family_can_be_checked(kind: str, tmp_path: Path) -> None:
    config = make_run(kind, tmp_path, dtype="bfloat16")
    report, trainer = check_run(config, samples=tmp_path / "samples")
    assert report.self_test.losses == {"one": 0.0, "two": 0.0, "guided": 0.0}
    one, two, guided = report.teachers
    assert one.student_distance == 0.0  # the student starts at it
    assert one.layers == two.layers > 0 and one.ranks == (4, 4) and two.scales == (1.6, 1.6)
    assert all(teacher.change and teacher.change > 0.01 for teacher in (one, two, guided))
    before, memory = trainer.family.footprint(config.student, config.teachers), report.estimate.memory
    trained = sum(value.numel() for value in trainer.weights.masters.values())
    assert 0.7 * trained < before.trained <= trained  # SD3's LoRA changes layers beside the usual ones
    assert before.weights <= memory.base + memory.student <= 1.1 * before.weights
    assert report.samples is not None and not Path(config.output_dir).exists()


def test_steps_without_a_grid_are_told_before_any_weight_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*arguments: object, **named: object) -> None:
        raise AssertionError("weights were read")

    config = make_run("qwen-image", tmp_path, num_rollout_steps=1)
    monkeypatch.setattr(ModelCheckpoint, "transformer", read)
    monkeypatch.setattr(ModelCheckpoint, "pipeline", read)
    for attempt in (trainer_of, check_run):
        with pytest.raises(
            ConfigError, match=r"^num_rollout_steps=1 cannot be had for the latents 16x8x8"
        ) as caught:
            attempt(config)
        assert "\n" not in str(caught.value)


def test_the_whole_check(tmp_path: Path) -> None:
    result = check(make_run(KIND, tmp_path))
    assert result.exit_code == 0, result.output
    assert [line.split()[1] for line in result.stdout.splitlines()] == [
        "config",
        "data",
        "resources",
        "teachers",
        "self-test",
        "estimate",
        "samples",
    ]
    assert "one: 4 rows (2 of 128x4x4, 2 of 128x3x5)" in result.stdout
    assert "all its keys on 8 of 25 linear layers, rank 4, scale 1.6" in result.stdout
    assert [file.name for file in (tmp_path / "run").rglob("*") if file.is_file()] == ["samples.png"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_models_are_counted_before_and_after_they_are_loaded(tmp_path: Path, dtype: str, kind: Any) -> None:
    other = str(tiny.save(KIND, tmp_path / "other", seed=5))
    config = make_run(
        KIND,
        tmp_path,
        dtype=dtype,
        student=StudentConfig(kind=kind),
        teachers=[
            Teacher("one", lora=str(make_lora(tiny.build(KIND).transformer, tmp_path / "lora").path)),
            Teacher("two", checkpoint=other),
            Teacher("guided", checkpoint=other, guidance_scale=2.0),
        ],
    )
    report, trainer = check_run(config)
    assert isinstance(trainer.family, PretrainedFamily)
    memory, base = report.estimate.memory, trainer.family.base
    size = trainer.family.dtype.itemsize
    trained = [value for value in trainer.student.module.parameters() if value.requires_grad]
    factors = [value for name, value in base.named_parameters() if ".lora_" in name]
    whole = sum(value.numel() for name, value in base.named_parameters() if ".lora_" not in name)
    assert memory.base == memory.teachers == whole * size
    assert memory.student == sum(value.nbytes for value in trained)
    assert memory.adapters == sum(value.nbytes for value in factors if not value.requires_grad) > 0
    before = trainer.family.footprint(config.student, config.teachers)
    assert before.trained == sum(value.numel() for value in trained)
    assert before.weights == memory.base + memory.teachers + memory.student
    assert report.self_test.start is True  # of a LoRA and of full weights, bit for bit
    assert not Path(config.output_dir).exists()


def test_checkpointed_activations_are_seen(tmp_path: Path) -> None:
    whole, again = (
        check_run(make_run(KIND, tmp_path, student=StudentConfig(gradient_checkpointing=on))).report.estimate
        for on in (False, True)
    )
    assert 0 < again.memory.activations < 0.9 * whole.memory.activations
    assert again.forwards == whole.forwards + 6


def test_the_cache_is_estimated_from_a_few_rows_and_used_when_it_is_there(tmp_path: Path) -> None:
    config = make_run(KIND, tmp_path, cache_dir=str(tmp_path / "cache"))
    report, trainer = check_run(config)
    assert not (tmp_path / "cache").exists()
    trainer.prepare()
    real = sum(file.stat().st_size for file in (tmp_path / "cache").rglob("*.safetensors"))
    assert real <= report.resources.cache < 3 * real  # rows that share a prompt are counted each
    again, _ = check_run(config)
    assert again.resources.cache < report.resources.cache


class Payload:
    """What a pickle does when it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.folder / "pickle was read",)


def _pickle(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_bytes(pickle.dumps(Payload(folder)))
    return path


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _with_lora(config: RunConfig, lora: object) -> list[str]:
    return [f"teachers.0.lora={lora}", "student.init=base"]


def _text_as_lora(config: RunConfig, folder: Path) -> list[str]:
    (folder / "notes.safetensors").write_text("no weights")
    return _with_lora(config, folder / "notes.safetensors")


def _pickle_as_lora(config: RunConfig, folder: Path) -> list[str]:
    return _with_lora(config, _pickle(folder, "lora.bin"))


def _pickle_as_checkpoint(config: RunConfig, folder: Path) -> list[str]:
    other = _copied_base(folder)
    for file in (other / "transformer").glob("*.safetensors"):
        file.unlink()
    _pickle(folder, "x.bin").rename(other / "transformer/diffusion_pytorch_model.bin")
    return [f"family={other}"]


def _copied_base(folder: Path) -> Path:
    return Path(shutil.copytree(folder_of(KIND), folder / "base"))


def _no_checkpoint(config: RunConfig, folder: Path) -> list[str]:
    return [f"family={folder}"]


def _unknown_family(config: RunConfig, folder: Path) -> list[str]:
    index = _copied_base(folder) / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": "KandinskyPipeline"}))
    return [f"family={folder / 'base'}"]


def _checkpoint_of_another_family(config: RunConfig, folder: Path) -> list[str]:
    return [f"teachers.1={{name: two, checkpoint: {folder_of('sd3')}}}"]


def _cut_base(config: RunConfig, folder: Path) -> list[str]:
    (file,) = (_copied_base(folder) / "transformer").glob("*.safetensors")
    _cut(file)
    return [f"family={folder / 'base'}"]


def _base_with_a_hole(config: RunConfig, folder: Path) -> list[str]:
    (file,) = (_copied_base(folder) / "transformer").glob("*.safetensors")
    tensors = load_file(file)
    del tensors["proj_out.weight"]
    save_file(tensors, file, {"format": "pt"})
    return [f"family={folder / 'base'}"]


def _cut_encoder(config: RunConfig, folder: Path) -> list[str]:
    (file,) = (_copied_base(folder) / "text_encoder").glob("*.safetensors")
    _cut(file)
    return [f"family={folder / 'base'}"]


def _cut_lora(config: RunConfig, folder: Path) -> list[str]:
    _cut(Path(config.teachers[1].lora or ""))
    return []


def _lora_of_another_model(config: RunConfig, folder: Path) -> list[str]:
    return _with_lora(config, make_lora(tiny.build("sd3").transformer, folder / "sd3").path)


def _lora_of_zeros(config: RunConfig, folder: Path) -> list[str]:
    path = Path(config.teachers[1].lora or "")
    zeros = {name: value * ("lora_A" in name) for name, value in load_file(path).items()}
    save_file(zeros, folder / "0.safetensors")
    return _with_lora(config, folder / "0.safetensors")


def _strength_zero(config: RunConfig, folder: Path) -> list[str]:
    return ["teachers.1.scale=0.0"]


def _empty_csv(config: RunConfig, folder: Path) -> list[str]:
    (folder / "prompts.csv").write_text("")
    return []


def _no_rows(config: RunConfig, folder: Path) -> list[str]:
    (folder / "prompts.csv").write_text("prompt\n")
    return []


def _unreadable_image(config: RunConfig, folder: Path) -> list[str]:
    _cut(folder / "source1.png")
    return []


def _long_prompt(config: RunConfig, folder: Path) -> list[str]:
    (folder / "prompts.csv").write_text("prompt\na circle\n" + "x" * 10_000 + "\n")
    return []


def _odd_size(config: RunConfig, folder: Path) -> list[str]:
    (folder / "prompts.csv").write_text("prompt,height,width\na circle,64,64\na square,64,50\n")
    return []


def _too_many_sources(config: RunConfig, folder: Path) -> list[str]:
    row = {"prompt": "mix them", "source": ["source0.png"] * 11}
    (folder / "edits.jsonl").write_text(json.dumps(row) + "\n")
    return []


def test_a_row_without_the_source_that_its_family_needs(tmp_path: Path) -> None:
    config = make_run("qwen-image-edit", tmp_path)
    (tmp_path / "prompts.csv").write_text("prompt,source\na,source0.png\nb,\n")
    with pytest.raises(
        ValueError, match=r"^row 2 of prompts.csv .* cannot be used: sources must hold one im"
    ):
        check_run(config)
    assert not Path(config.output_dir).exists()


Mistake = Callable[[RunConfig, Path], list[str]]
IN_DATA: list[tuple[Mistake, str]] = [
    (_empty_csv, "prompts.csv"),
    (_no_rows, "prompts.csv has no rows"),
    (_unreadable_image, "the source of row 2 of edits.jsonl (line 2) ('source1.png') cannot be"),
    (_long_prompt, "the prompt of row 2 of prompts.csv (line 3) has 10000 characters"),
    (_odd_size, "row 2 of prompts.csv (line 3) cannot be used: size must be multiples of 16"),
    (_too_many_sources, "row 1 of edits.jsonl (line 1) cannot be used: sources holds 11 images"),
]
IN_FILES: list[tuple[Mistake, str]] = [
    (_text_as_lora, "notes.safetensors' cannot be read as safetensors"),
    (_pickle_as_lora, "lora.bin' is no safetensors file"),
    (_pickle_as_checkpoint, "cannot be loaded as Flux2Transformer2DModel"),
    (_no_checkpoint, "is no diffusers checkpoint that can be read"),
    (_unknown_family, "KandinskyPipeline, which no family here speaks for"),
    (_checkpoint_of_another_family, "is of another model: it is a SD3Transformer2DModel, the base a Flux2"),
    (_base_with_a_hole, "transformer' lacks 1 tensors of Flux2Transformer2DModel"),
    (_cut_base, "cannot be loaded as Flux2Transformer2DModel"),
    (_cut_encoder, "text_encoder' cannot be loaded as Qwen3ForCausalLM"),
    (_cut_lora, "cannot be read as safetensors"),
    (_lora_of_another_model, "belong to no layer of the transformer"),
    (_lora_of_zeros, "teacher 'one' is a no-op: its LoRA"),
    (_strength_zero, "teacher 'two' is a no-op: its LoRA"),
]


@pytest.mark.parametrize(("mistake", "words"), IN_DATA + IN_FILES)
def test_a_mistake_is_one_sentence_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mistake: Mistake, words: str
) -> None:
    config = make_run(KIND, tmp_path)
    overrides = mistake(config, tmp_path)
    if (mistake, words) in IN_DATA:

        def loaded(*_: object, **__: object) -> None:
            raise AssertionError("weights were loaded")

        monkeypatch.setattr(ModelCheckpoint, "transformer", loaded)
        monkeypatch.setattr(ModelCheckpoint, "pipeline", loaded)
    write_config(config, tmp_path / "config.yaml")
    before = sorted(tmp_path.rglob("*"))
    for command in ("check", "train"):
        result = check(config, *overrides, command=command)
        assert result.exit_code == 2, result.output
        sentence = result.stderr.splitlines()[-1]
        assert sentence.startswith("danceopd: ") and words in sentence
        assert "samples" not in result.stdout
        assert sorted(tmp_path.rglob("*")) == before
