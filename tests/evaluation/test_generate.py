"""Images of a benchmark: made once, whole or not there, the same however the work is cut."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import torch
from PIL import Image

from danceopd.evaluation import Case, Generated, generate, open_benchmark
from danceopd.evaluation.batches import plan_batches, share_of_environment
from danceopd.evaluation.benchmarks import BenchmarkCopy
from danceopd.evaluation.identity import claim
from danceopd.families import Teacher
from danceopd.pictures import read_png
from tests.evaluation import copies
from tests.evaluation.drawing import COUNT, draw, two_of_each
from tests.families.parity import RESOLUTION, family_of

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> BenchmarkCopy:
    return two_of_each(tmp_path_factory.mktemp("shapes"))


def files_of(folder: Path) -> dict[str, bytes]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def whole(shapes: BenchmarkCopy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All images, drawn in one go."""
    out = tmp_path_factory.mktemp("whole") / "student"
    done = draw(shapes, out, identity={"weights": "ab"})
    assert done == Generated(out / "images", made=COUNT, kept=0, problems={})
    return out


def test_every_image_is_where_the_evaluator_looks(shapes: BenchmarkCopy, whole: Path) -> None:
    paths = [str(shapes.image_path(case, number)) for case in shapes.cases() for number in range(2)]
    images = files_of(whole / "images")
    assert sorted(paths) == sorted(images) and len(set(images.values())) > COUNT - 4
    for path in paths:
        assert read_png(whole / "images" / path).shape == (3, 16, 16)
    note = json.loads((whole / "generation.json").read_text())
    assert note == {
        "benchmark": "shapesworld",
        "fingerprint": shapes.fingerprint(),
        "seed": 3,
        "num_steps": 2,
        "guidance_scale": 1.0,
        "model": {"weights": "ab"},
    }


def test_nothing_is_made_twice(shapes: BenchmarkCopy, whole: Path, tmp_path: Path) -> None:
    def none(*_: Any) -> torch.Tensor:
        raise AssertionError("the model was asked")

    again = draw(shapes, whole, identity={"weights": "ab"}, field=none)
    assert (again.made, again.kept) == (0, COUNT)


def test_what_is_missing_or_torn_is_made_to_the_same_bits(
    shapes: BenchmarkCopy, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "x"
    draw(shapes, out)
    images = sorted((out / "images").rglob("*.png"))
    images[0].unlink()
    images[7].write_bytes(images[7].read_bytes()[:-5])
    images[8].with_name("1.png.partial").write_bytes(b"half")
    done = draw(shapes, out)
    assert (done.made, done.kept) == (2, COUNT - 2)
    images[8].with_name("1.png.partial").unlink()
    assert files_of(out / "images") == files_of(whole / "images")


@pytest.mark.parametrize("count", [2, 3, 7])
def test_shares_add_up_to_the_whole(shapes: BenchmarkCopy, whole: Path, tmp_path: Path, count: int) -> None:
    out = tmp_path / "x"
    parts = [draw(shapes, out, share=(number, count)) for number in range(count)]
    assert sum(part.made for part in parts) == COUNT
    assert files_of(out / "images") == files_of(whole / "images")


def test_noise_is_of_the_seed_the_case_and_the_number(
    shapes: BenchmarkCopy, whole: Path, tmp_path: Path
) -> None:
    few = replace(shapes, tasks=shapes.tasks[8:2:-2], images_per_case=1)
    draw(few, tmp_path / "few", batch_size=2)
    few_images = files_of(tmp_path / "few" / "images")
    assert len(few_images) == len(few.tasks)
    for name in few_images:
        # Batches of other sizes may round otherwise.
        apart = read_png(whole / "images" / name).int() - read_png(tmp_path / "few" / "images" / name).int()
        assert apart.abs().max() <= 1
    draw(few, tmp_path / "other", seed=4)
    other = files_of(tmp_path / "other" / "images")
    assert not other.items() & files_of(whole / "images").items()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seed": 4}, "seed is 3 there and 4 here"),
        ({"num_steps": 1}, "num_steps is 2 there and 1 here"),
        ({"guidance_scale": 2}, "guidance_scale is 1.0 there and 2.0 here"),
        (
            {"identity": {"weights": "cd", "lora": 1}},
            "model.lora is nothing there and 1 here; model.weights is",
        ),
    ],
)
def test_a_folder_of_something_else_is_refused(
    shapes: BenchmarkCopy, whole: Path, change: dict[str, Any], told: str
) -> None:
    before = files_of(whole)
    with pytest.raises(ValueError, match="holds images of another generation") as error:
        draw(shapes, whole, **({"identity": {"weights": "ab"}} | change))
    assert told in str(error.value)
    assert files_of(whole) == before


def test_a_folder_of_another_copy_or_of_no_note_is_refused(
    shapes: BenchmarkCopy, whole: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="fingerprint is"):
        draw(replace(shapes, tasks=shapes.tasks[1:]), whole, identity={"weights": "ab"})
    copies.write(tmp_path, {"images/x.png": b"x"})
    with pytest.raises(ValueError, match=r"holds images but no generation\.json"):
        draw(shapes, tmp_path)
    (tmp_path / "generation.json").write_text("[1")
    with pytest.raises(ValueError, match="is no note of what made"):
        draw(shapes, tmp_path)


def test_unreadable_sources_are_told_and_cost_no_other_image(shapes: BenchmarkCopy, tmp_path: Path) -> None:
    edits = [case for case in shapes.tasks if case.sources][:3]
    torn, text = tmp_path / "torn.png", tmp_path / "text.png"
    torn.write_bytes(edits[0].sources[0].read_bytes()[:-40])  # its head is whole
    text.write_text("no image")
    tasks = (replace(edits[0], sources=(torn,)), replace(edits[1], sources=(text,)), edits[2])
    benchmark = replace(shapes, tasks=tasks)
    for share in ((0, 2), (1, 2), (0, 1)):
        done = draw(benchmark, tmp_path / "x", batch_size=3, share=share)
    assert sorted(done.problems) == sorted(case.key for case in edits[:2])
    assert "torn.png') cannot be" in done.problems[edits[0].key]
    assert "text.png') is not an image" in done.problems[edits[1].key]
    assert sorted(files_of(done.images)) == [str(benchmark.image_path(edits[2], n)) for n in range(2)]
    # What could not be read for a while is not held against it.
    torn.write_bytes(edits[0].sources[0].read_bytes())
    (tmp_path / "x" / "generation.json").unlink()
    done.images.rename(tmp_path / "y")
    assert list(draw(benchmark, tmp_path / "x").problems) == [edits[1].key]


def test_a_family_that_can_make_none_is_an_error(tmp_path: Path) -> None:
    large = BenchmarkCopy("mine", (Case("a", "x", "t2i", "red circle on grey", size=(32, 32)),), _named)
    with pytest.raises(ValueError, match="cannot be had in ShapesWorld"):
        draw(large, tmp_path / "x")
    mixed = replace(large, tasks=(*large.tasks, Case("b", "x", "t2i", "red circle on grey")))
    done = draw(mixed, tmp_path / "y")
    assert done.made == 1 and list(done.problems) == ["a"]


def _named(case: Case, number: int) -> PurePosixPath:
    return PurePosixPath(f"{case.key}-{number}.png")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"seed": -1}, "seed must be at least 0, but got -1"),
        ({"num_steps": 0}, "num_steps must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"share": (2, 2)}, r"share must be \(i, n\) with i in 0 .. n - 1, but got \(2, 2\)"),
    ],
)
def test_arguments_out_of_range(shapes: BenchmarkCopy, tmp_path: Path, options: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        draw(shapes, tmp_path / "x", **options)
    assert not (tmp_path / "x").exists()


def test_the_share_is_the_launchers(shapes: BenchmarkCopy, tmp_path: Path, monkeypatch: Any) -> None:
    assert share_of_environment({}) == (0, 1)
    assert share_of_environment({"RANK": "2", "WORLD_SIZE": "4"}) == (2, 4)
    with pytest.raises(ValueError, match="RANK=x and WORLD_SIZE=1"):
        share_of_environment({"RANK": "x"})
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert draw(shapes, tmp_path / "x", share=None).made < COUNT / 2


def test_progress_is_shown(shapes: BenchmarkCopy, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    draw(shapes, tmp_path / "x", progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"x images 5/{COUNT}  0:")
    assert lines[-1] == f"x images {COUNT}/{COUNT}  0:00:00 left"
    draw(shapes, tmp_path / "x", progress=True)
    draw(shapes, tmp_path / "y", progress=True, share=(1, 2))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    draw(shapes, tmp_path / "z", progress=True)
    assert f"{COUNT}/{COUNT}" in capsys.readouterr().err


def test_every_format_with_a_real_family(tmp_path: Path) -> None:
    """Sources of two sizes, several images of a caption, the evaluators' other files."""
    family = family_of("flux2-klein")
    field = family.teacher(Teacher("base"))
    settings: Any = {"seed": 0, "num_steps": 2, "batch_size": 3, "progress": False}
    folder = copies.gedit(tmp_path / "gedit")
    edits = open_benchmark("gedit", folder, language="all")
    assert isinstance(edits, BenchmarkCopy)
    edits.tasks[3].sources[0].write_bytes(copies.picture(5, (64, 96)))
    done = generate(edits, family, field, tmp_path / "a", **settings)
    assert done.made == 4 and not done.problems
    made = files_of(done.images)
    assert sorted(made) == sorted(
        f"fullset/{task}/{language}/{key}{tail}.png"
        for task, language, key, _ in copies.GEDIT
        for tail in ("", "_SRCIMG")
    )
    assert made["fullset/subject-add/cn/77c0_SRCIMG.png"] == copies.picture(5, (64, 96))
    batches, _ = plan_batches(edits, family, 3)
    assert [len(batch.images) for batch in batches] == [3, 1]
    with Image.open(done.images / "fullset/subject-add/cn/77c0.png") as image:
        assert image.width > image.height

    captions = open_benchmark("geneval", copies.geneval(tmp_path / "geneval"))
    done = generate(captions, family, field, tmp_path / "b", **settings)
    assert done.made == 12
    assert len({bytes(content) for content in files_of(done.images).values()}) == 15
    for path in done.images.rglob("*.png"):
        assert read_png(path).shape == (3, RESOLUTION, RESOLUTION)


def test_threads_open_a_copy_and_note_what_they_make_at_once(tmp_path: Path) -> None:
    folder = copies.emuedit(tmp_path / "copy")

    def work(_: int) -> str:
        benchmark = open_benchmark("emuedit", folder)
        claim(tmp_path / "x", {"seed": 1}, tmp_path / "x" / "images")
        return benchmark.fingerprint()

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(work, range(16)))) == 1
    assert not list(tmp_path.rglob("*.partial"))


def test_images_that_are_not_finite_are_problems_of_their_cases(
    shapes: BenchmarkCopy, tmp_path: Path
) -> None:
    calls = []

    def spoilt(sample: torch.Tensor, sigma: Any, condition: Any) -> torch.Tensor:
        calls.append(len(sample))
        velocity = torch.zeros_like(sample)
        if len(calls) == 1:
            velocity[1] = torch.nan  # the second image of the first case
        return velocity

    done = draw(shapes, tmp_path / "x", field=spoilt, batch_size=4)
    key = shapes.cases()[0].key
    assert done.made == COUNT - 2 and list(done.problems) == [key]
    assert "latents that are not finite" in done.problems[key]
    again = draw(shapes, tmp_path / "x", field=lambda sample, sigma, condition: torch.zeros_like(sample))
    assert (again.made, again.problems) == (2, {})


@pytest.mark.slow
def test_a_killed_process_leaves_whole_images(whole: Path, tmp_path: Path) -> None:
    """And what others have made of their shares is kept."""
    command = [sys.executable, "-m", "tests.evaluation.drawing", str(tmp_path / "copy"), str(tmp_path / "x")]
    images = tmp_path / "x" / "images"
    with subprocess.Popen(command, env=os.environ | {"RANK": "1", "WORLD_SIZE": "2"}) as process:
        while len(list(images.rglob("*.png"))) < 2:
            assert process.poll() is None
            time.sleep(0.005)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    benchmark = two_of_each(tmp_path / "copy")
    assert draw(benchmark, tmp_path / "x", share=(0, 2)).kept == 0
    done = draw(benchmark, tmp_path / "x")
    assert done.made > 0 and done.kept >= 14 and done.made + done.kept == COUNT
    assert files_of(images) == files_of(whole / "images")
