"""Rows are encoded once in the life of a folder; then the encoders are not needed any more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from danceopd.data import buckets
from danceopd.families import Example, StudentConfig, load_family, pretrained
from danceopd.families.checkpoint import Checkpoint
from danceopd.families.conditions import RowsCondition
from danceopd.families.encoding import fit_source
from danceopd.families.pretrained import PretrainedFamily
from tests.families import tiny
from tests.families.parity import as_tensor, folder_of, same_conditions
from tests.families.tiny.calls import picture
from tests.families.tiny.words import PROMPTS

torch.set_num_threads(1)

KIND = "flux2-klein"
EXAMPLES = [
    Example(PROMPTS[0]),
    Example(PROMPTS[1], (as_tensor(picture(1)),)),
    Example(PROMPTS[0], (as_tensor(picture(1)), as_tensor(picture(2, (48, 80)))), size=(32, 48)),
    Example(PROMPTS[2], size=(48, 32)),
]


def new_family(folder: Path | None = None, **options: Any) -> PretrainedFamily:
    family = load_family(folder or folder_of(KIND), resolution=64, **options)
    assert isinstance(family, PretrainedFamily)
    return family


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def all_rows(family: PretrainedFamily, folder: Path) -> RowsCondition:
    (prepared,) = family.prepare([EXAMPLES], folder)
    condition = prepared.condition(range(len(EXAMPLES)))
    assert isinstance(condition, RowsCondition)
    return condition


def no_encoders(self: Checkpoint, *arguments: object, **options: object) -> None:
    raise AssertionError("the encoders were loaded")


def test_prepared_rows_are_the_encoded_ones(tmp_path: Path) -> None:
    family = new_family()
    (prepared,) = family.prepare([EXAMPLES], tmp_path)
    assert len(prepared) == 4
    assert [prepared.shape(row) for row in range(4)] == [family.shape(example) for example in EXAMPLES]
    some = prepared.condition([2, 0, 2])
    assert isinstance(some, RowsCondition)
    assert same_conditions(some, family.encode([EXAMPLES[2], EXAMPLES[0], EXAMPLES[2]]))


def test_a_second_run_needs_no_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = new_family()
    wanted = all_rows(first, tmp_path)
    assert first._encoder._pipe is None
    before = {path: path.stat().st_mtime_ns for path in files(tmp_path)}
    # Four prompts and the empty one, and two different images; equal ones are kept once.
    assert len(before) == 3 + 1 + 2
    monkeypatch.setattr(Checkpoint, "pipeline", no_encoders)
    assert same_conditions(all_rows(new_family(), tmp_path), wanted)
    assert {path: path.stat().st_mtime_ns for path in files(tmp_path)} == before


def test_what_was_lost_or_damaged_is_encoded_again(tmp_path: Path) -> None:
    wanted = all_rows(new_family(), tmp_path)
    one, other, *_ = sorted(files(tmp_path))
    one.unlink()
    other.write_bytes(other.read_bytes()[:-7])
    assert same_conditions(all_rows(new_family(), tmp_path), wanted)
    (prepared,) = new_family().prepare([EXAMPLES], tmp_path)
    for file in files(tmp_path):
        file.unlink()
    with pytest.raises(OSError, match=r"lost or damaged an entry .* start the run again"):
        prepared.condition([1])


def test_other_encoders_and_precisions_share_nothing(tmp_path: Path) -> None:
    all_rows(new_family(), tmp_path)
    count = len(files(tmp_path))
    all_rows(new_family(dtype=torch.bfloat16), tmp_path)
    assert len(files(tmp_path)) == 2 * count
    all_rows(new_family(tiny.save(KIND, tmp_path.with_name("other"), seed=3)), tmp_path)
    assert len(files(tmp_path)) == 3 * count


def test_rows_that_share_a_tensor_share_it_on_the_device_too(tmp_path: Path) -> None:
    rows = all_rows(new_family(), tmp_path).to("cpu").rows
    assert len({id(tensor) for row in rows for tensor in row.negative.values()}) == 1


def image(height: int, width: int) -> Tensor:
    return (
        torch.arange(3 * height * width, dtype=torch.int64)
        .remainder(256)
        .to(torch.uint8)
        .view(3, height, width)
    )


@pytest.mark.parametrize(
    ("size", "fitted"),
    [
        ((32, 48), (32, 48)),
        ((37, 50), (32, 48)),
        ((128, 128), (64, 64)),
        ((64, 256), (32, 128)),
        ((16, 16), (16, 16)),
    ],
)
def test_sources_are_scaled_down_and_cropped_never_up(size: tuple[int, int], fitted: tuple[int, int]) -> None:
    source = fit_source(image(*size), buckets(64, 16), multiple=16)
    assert source.shape == (3, *fitted) and source.dtype == torch.uint8
    if size == fitted:
        assert torch.equal(source, image(*size))


def test_a_source_that_is_too_small_or_too_many_is_refused() -> None:
    with pytest.raises(ValueError, match="a source image of 8 x 40 pixels is too small"):
        fit_source(image(8, 40), buckets(64, 16), multiple=16)
    family = load_family(folder_of("sd3"), resolution=32)
    with pytest.raises(ValueError, match="sources holds 1 images, but Stable Diffusion 3 has no editing"):
        family.encode([Example("x", (image(32, 32),))])


@pytest.mark.parametrize("fails", [False, True])
def test_transformers_leave_the_device_while_encoders_are_there(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = new_family()
    base = family.base
    family.student(StudentConfig(rank=2))
    events: list[tuple[object, str]] = []
    monkeypatch.setattr(pretrained, "_move", lambda model, device: events.append((model, str(device))))
    monkeypatch.setattr(family, "device", torch.device("cuda"))  # where nothing is moved to here
    load = Checkpoint.pipeline

    def loading(self: Checkpoint, *arguments: Any, **options: Any) -> Any:
        events.append(("encoders", "loaded"))
        if fails:
            raise ValueError("no encoders today")
        return load(self, *arguments, **options)

    monkeypatch.setattr(Checkpoint, "pipeline", loading)
    if fails:
        with pytest.raises(ValueError, match="no encoders today"):
            family.prepare([EXAMPLES], tmp_path)
    else:
        family.prepare([EXAMPLES], tmp_path)
    assert events[0] == (base, "cpu") and events[-1] == (base, "cuda")
    assert set(events[1:-1]) == {("encoders", "loaded")}
