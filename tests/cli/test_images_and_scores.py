"""``danceopd sample`` and ``danceopd eval``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import danceopd.families
from danceopd.pictures import read_png, write_pngs
from tests.cli.running import run, told
from tests.training.tiny import TinyFamily


def test_mistakes_of_sample_are_one_sentence(config: Path, tmp_path: Path) -> None:
    told(run("sample", tmp_path, "--prompt", "1"), "has no checkpoint yet")
    (tmp_path / "text.png").write_text("no image")
    sampled = ("sample", "1", "--family", "tiny", "--prompt", "1")
    told(run(*sampled, "--source", tmp_path / "text.png"), "is not an image")
    told(run(*sampled, "--source", tmp_path / "none.png"), "none.png': No such file")
    told(run("sample", "1", "--family", "other", "--prompt", "1"), "family must be tiny")
    assert not list(tmp_path.glob("sample*"))


def test_where_nothing_can_be_written_is_told_before_the_work(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*arguments: Any, **settings: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(danceopd.families, "load_family", work)
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.iterdir())
    sampled = ("sample", "1", "--family", "tiny", "--prompt", "1", "--out")
    told(run(*sampled, "/proc/x.png"), "cannot write '/proc/x.png': ", "choose another folder")
    told(run(*sampled, tmp_path / "no" / "x.png"), f"the folder '{tmp_path}/no' is not there; make it first")
    told(run(*sampled, tmp_path / "x.jpg"), "x.jpg': images are kept as PNG", "end the name in .png")
    told(run(*sampled, tmp_path / "v1.0"), "v1.0': images are kept as PNG", "or make it a folder first")
    scored = ("eval", "base", "--out")
    told(run(*scored, "/proc/x.json"), "cannot write '/proc/x.json': ", "choose another folder")
    told(run(*scored, tmp_path / "folder"), "folder': it is a folder; name a file in it")
    assert sorted(tmp_path.iterdir()) == before


def test_an_output_is_whole_or_the_one_before(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "x.png"
    out.write_text("before")
    replace = Path.replace

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "replace", full)
    sampled = ("sample", "1", "--family", "tiny", "--prompt", "1", "--steps", 1, "--out", out)
    told(run(*sampled), f"cannot write '{out}': No space left on device; free space")
    assert out.read_text() == "before"
    assert not list(tmp_path.glob("*.partial"))
    monkeypatch.setattr(Path, "replace", replace)
    assert run(*sampled).exit_code == 0
    assert read_png(out).shape == (3, 4, 4)


def test_several_images_are_files_of_a_folder_or_one_row(config: Path, tmp_path: Path) -> None:
    sampled = ("sample", "1", "--family", "tiny", "--prompt", "1", "--prompt", "2", "--steps", 2)
    result = run(*sampled, "--out", tmp_path / "images", "--zoom", 1)
    assert result.stdout.split() == [str(tmp_path / "images" / name) for name in ("000.png", "001.png")]
    (tmp_path / "v1.0").mkdir()
    assert str(tmp_path / "v1.0" / "001.png") in run(*sampled, "--out", tmp_path / "v1.0").stdout
    run(*sampled, "--out", tmp_path / "row.png", "--zoom", 3)
    with Image.open(tmp_path / "row.png") as row, Image.open(tmp_path / "images/001.png") as second:
        assert (second.size, row.size) == ((4, 4), (24, 12))
        assert second.getpixel((1, 2)) == row.getpixel((12 + 3 * 1 + 1, 3 * 2 + 1))


def test_an_enlarged_image_is_read_back_as_its_pixels(tmp_path: Path) -> None:
    image = torch.randint(0, 256, (1, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    (path,) = write_pngs(image, tmp_path / "x.png")
    assert torch.equal(read_png(path), image[0])


def test_eval_hands_over_what_was_asked(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import danceopd.shapesworld

    asked: dict[str, Any] = {}

    class Scores:
        def to_dict(self) -> dict[str, float]:
            return {"mean": 0.5}

    def evaluate(family: Any, field: Any, grounds: list[str], **settings: Any) -> Scores:
        asked.update(settings, grounds=grounds, family=family)
        return Scores()

    monkeypatch.setattr(danceopd.shapesworld, "evaluate", evaluate)
    monkeypatch.setattr(danceopd.shapesworld, "ShapesWorldFamily", TinyFamily)
    run("train", config)
    result = run("eval", tmp_path / "run", "--ground", "local", "--prompts", 7, "--seed", 3)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"mean": 0.5}
    assert asked.pop("family").name == "tiny"
    assert asked == {"grounds": ["local"], "prompts": 7, "num_steps": 8, "guidance_scale": 1.0, "seed": 3}
    run("eval", tmp_path / "run", "--out", tmp_path / "scores.json")
    assert json.loads((tmp_path / "scores.json").read_text()) == {"mean": 0.5}
    assert asked["grounds"] == ["t2i", "local", "global"]
    told(run("eval", tmp_path / "run", "--ground", "locl"), "did you mean 'local'?")
    monkeypatch.undo()


def test_only_shapesworld_can_be_scored(config: Path, tmp_path: Path) -> None:
    run("train", config)
    result = run("eval", tmp_path / "run")
    assert result.exit_code == 2
    assert "is of the family 'tiny', but only ShapesWorld can be scored" in result.stderr
