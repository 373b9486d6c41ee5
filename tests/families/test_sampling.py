"""``danceopd sample`` on a checkpoint of a real family: a run, the base, a LoRA, full weights, sources."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from danceopd import cli
from danceopd.families import Teacher, load_family
from danceopd.sampling import sample
from danceopd.training import load_student
from tests.families import tiny
from tests.families.parity import as_tensor, folder_of
from tests.families.test_training import make_run, trainer_of
from tests.families.tiny.calls import picture
from tests.families.tiny.loras import make_lora
from tests.families.tiny.words import PROMPTS

torch.set_num_threads(1)

KIND = "flux2-klein"  # text and editing with several sources
STEPS = 2


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["sample", *map(str, arguments), "--steps", str(STEPS)])


def drawn(out: Path, *arguments: object) -> np.ndarray:
    """[H, W, 3] of what the command writes."""
    result = run(*arguments, "--out", out, "--zoom", 1)
    assert result.exit_code == 0, result.output
    with Image.open(out) as image:
        return np.array(image)


def expert(*arguments: object) -> tuple[object, ...]:
    return ("base", "--family", folder_of(KIND), "--prompt", PROMPTS[0], "--resolution", 64, *arguments)


def told(result: Result, words: str) -> None:
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert words in result.stderr


def test_a_run_knows_its_own(tmp_path: Path) -> None:
    trainer_of(make_run(KIND, tmp_path, max_steps=1, dtype="bfloat16")).train()
    family = load_student(tmp_path / "run").family
    assert (family.resolution, family.dtype) == (64, torch.bfloat16)  # type: ignore[attr-defined]
    image = drawn(tmp_path / "x.png", tmp_path / "run", "--prompt", PROMPTS[0])
    assert image.shape == (64, 64, 3)
    for option, value in (("dtype", "float32"), ("resolution", 32), ("lora", "x.safetensors")):
        result = run(tmp_path / "run", "--prompt", PROMPTS[0], f"--{option}", value)
        told(result, f"--{option} {value} is for an EXPERT, but '{tmp_path / 'run'}' is a run: drop it.")


def test_size_and_sources_are_what_python_samples(tmp_path: Path) -> None:
    sources = [picture(1), picture(2, (32, 64))]
    for number, source in enumerate(sources):
        source.save(tmp_path / f"{number}.png")
    files = [part for number in range(2) for part in ("--source", tmp_path / f"{number}.png")]
    size = ("--size", "32x48")
    one, two, none = (drawn(tmp_path / "x.png", *expert(*size, *files[:count])) for count in (2, 4, 0))
    family = load_family(folder_of(KIND), resolution=64)
    (wanted,) = sample(
        family,
        family.teacher(Teacher("base")),
        PROMPTS[:1],
        sources=[list(map(as_tensor, sources))],
        size=(32, 48),
        num_steps=STEPS,
    )
    assert two.shape == (32, 48, 3) and np.array_equal(two, wanted.permute(1, 2, 0).numpy())
    assert not np.array_equal(one, two) and not np.array_equal(none, one)


def test_a_picture_is_upright(tmp_path: Path) -> None:
    source = picture(1, (64, 32))
    source.save(tmp_path / "upright.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # to be shown turned by a quarter, clockwise
    source.rotate(90, expand=True).save(tmp_path / "turned.png", exif=turned)
    upright, again = (
        drawn(tmp_path / "x.png", *expert("--source", tmp_path / f"{name}.png"))
        for name in ("upright", "turned")
    )
    assert np.array_equal(upright, again) and upright.shape[0] > upright.shape[1]


def test_experts_are_loras_full_weights_and_dtypes(tmp_path: Path) -> None:
    lora = make_lora(tiny.build(KIND).transformer, tmp_path / "lora").path
    other = tiny.save(KIND, tmp_path / "other", seed=5)
    base = drawn(tmp_path / "x.png", *expert())
    for arguments in (expert("--lora", lora), (other, *expert()[1:]), expert("--dtype", "bfloat16")):
        assert not np.array_equal(drawn(tmp_path / "x.png", *arguments), base)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--size", "32"), "--size '32' must be height x width in pixels, such as 768x1024."),
        (("--size", "32x50"), "size must be multiples of 16 for FLUX.2, but got 32 x 50"),
        (("--dtype", "float16"), "--dtype 'float16' is unknown: use float32 or bfloat16."),
        (("--resolution", "50"), "resolution must be a multiple of 16 for FLUX.2, but got 50"),
        (("--lora", "/none.safetensors"), "the LoRA '/none.safetensors' is not there"),
    ],
)
def test_mistakes_are_one_sentence(arguments: tuple[str, ...], words: str) -> None:
    told(run(*expert(*arguments)), words)


def test_shapesworld_has_one_size() -> None:
    told(run("base", "--prompt", "red circle on grey", "--size", "32x32"), "size=(32, 32) cannot be had")
    shown = ("base", "--prompt", "red circle on grey", "--dtype", "bfloat16", "--resolution", 32)
    told(run(*shown), "resolution=32 cannot be set for ShapesWorld")
