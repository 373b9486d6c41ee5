"""The README's example of a real model, run as it is written but for names and sizes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from danceopd.training import load_student
from tests.families import tiny
from tests.families.parity import folder_of
from tests.families.tiny.loras import make_lora
from tests.families.tiny.words import PROMPTS

torch.set_num_threads(1)

README = Path(__file__).parents[2] / "README.md"


def example() -> str:
    (text,) = re.findall(
        r"^## Real models\n.*?^```python\n(.*?)^```$",
        README.read_text(encoding="utf-8"),
        re.DOTALL | re.MULTILINE,
    )
    return str(text)


def test_the_example_of_a_real_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lora = make_lora(tiny.build("sd3").transformer, tmp_path / "lora").path
    for name in ("prompts.csv", "compositions.csv"):
        Path(name).write_text("\n".join(["prompt", *(f'"{prompt}"' for prompt in PROMPTS)]))
    Path("portraits.jsonl").write_text("\n".join(json.dumps({"prompt": prompt}) for prompt in PROMPTS))
    code = example()
    for text, ours, times in (
        ("stabilityai/stable-diffusion-3.5-medium", str(folder_of("sd3")), 1),
        ("me/realism", str(lora), 1),
        ('"cuda"', '"cpu"', 2),
        ("resolution=1024", "resolution=64", 1),
        ("max_steps=3000", "max_steps=1", 1),
    ):
        assert code.count(text) == times
        code = code.replace(text, ours)
    names: dict[str, Any] = {"__name__": "readme"}
    exec(compile(code, README.name, "exec"), names)
    assert {name for name, _ in names["pipe"].transformer.named_parameters() if ".lora_B." in name}
    with Image.open("sailor.png") as image:
        assert len(image.getcolors(image.width * image.height)) > 10
    student = load_student("runs/one-model")
    assert student.step == 1 and student.config.resolution == 64 and student.config.dtype == "bfloat16"
