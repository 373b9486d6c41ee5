"""Rows are encoded once in the life of a folder; then the encoders are not needed any more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from danceopd.data import DataError, TensorCache, rows
from danceopd.families import Example, StudentConfig, encoding, load_family, pretrained
from danceopd.families.checkpoint import ModelCheckpoint
from danceopd.families.conditions import RowsCondition
from danceopd.families.pretrained import PretrainedFamily
from danceopd.training.check.probe import ProbeRows
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


def no_encoders(self: ModelCheckpoint, *arguments: object, **options: object) -> None:
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
    monkeypatch.setattr(ModelCheckpoint, "pipeline", no_encoders)
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


def test_an_entry_that_looks_whole_is_told_when_it_is_read_and_then_encoded_again(tmp_path: Path) -> None:
    wanted = all_rows(new_family(), tmp_path)
    for file in files(tmp_path):
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    for _ in range(len(files(tmp_path)) + 1):
        try:
            assert same_conditions(all_rows(new_family(), tmp_path), wanted)
        except OSError as error:
            assert "damaged an entry" in str(error)
        else:
            break
    else:
        raise AssertionError("some entry is never encoded again")


def write_rows(folder: Path) -> Path:
    for number in range(3):
        picture(number).save(folder / f"{number}.png")
    (folder / "rows.csv").write_text("prompt,source\na,0.png\nb,1.png\na,1.png\nc,\n", encoding="utf-8")
    return folder / "rows.csv"


def test_a_second_run_neither_decodes_an_image_nor_reads_an_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_rows(tmp_path)
    family = new_family()
    (first,) = family.prepare([family.data(file)], tmp_path / "cache")
    wanted = first.condition(range(4))
    family = new_family()
    data = family.data(file)

    def fail(*arguments: object) -> None:
        raise AssertionError("an image was decoded, an entry read, or the encoders were loaded")

    with monkeypatch.context() as patch:
        patch.setattr(rows, "load_image", fail)
        patch.setattr(TensorCache, "get", fail)
        patch.setattr(ModelCheckpoint, "pipeline", fail)
        (second,) = family.prepare([data], tmp_path / "cache")
    assert [second.shape(row) for row in range(4)] == [first.shape(row) for row in range(4)]
    assert isinstance(wanted, RowsCondition) and same_conditions(second.condition(range(4)), wanted)


def test_only_what_is_new_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_rows(tmp_path)
    family = new_family()
    family.prepare([family.data(file)], tmp_path / "cache")
    file.write_text(file.read_text() + "c,2.png\n")
    family = new_family()
    data = family.data(file)
    decoded = []
    load = rows.load_image

    def noting(value: str, *arguments: Any) -> Any:
        decoded.append(value)
        return load(value, *arguments)

    monkeypatch.setattr(rows, "load_image", noting)
    family.prepare([data], tmp_path / "cache")
    assert decoded == ["2.png"]


def test_an_image_that_changes_before_it_is_encoded_is_not_kept_under_its_old_name(tmp_path: Path) -> None:
    file = write_rows(tmp_path)
    family = new_family()
    data = family.data(file)
    picture(9).save(tmp_path / "1.png")
    with pytest.raises(DataError, match=r"the images of row 2 of rows.csv .* have changed"):
        family.prepare([data], tmp_path / "cache")
    family = new_family()
    (prepared,) = family.prepare([family.data(file)], tmp_path / "cache")
    example = family.encode([family.data(file)[1]])
    assert same_conditions(prepared.condition([1]), example)


def test_rows_are_found_whatever_they_are_read_from_in_a_run(tmp_path: Path) -> None:
    file = write_rows(tmp_path)
    family = new_family()
    data = family.data(file)
    family.prepare([data], tmp_path / "cache")
    before = files(tmp_path / "cache")
    family.prepare([ProbeRows(data, [2, 0])], tmp_path / "cache")
    assert files(tmp_path / "cache") == before


@pytest.mark.parametrize("package", ["diffusers", "transformers"])
def test_other_versions_of_what_encodes_share_nothing(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_rows(new_family(), tmp_path)
    count = len(files(tmp_path))
    installed = encoding.version
    monkeypatch.setattr(encoding, "version", lambda name: "9" if name == package else installed(name))
    all_rows(new_family(), tmp_path)
    assert len(files(tmp_path)) == 2 * count


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


def test_too_many_sources_are_refused() -> None:
    family = load_family(folder_of("sd3"), resolution=32)
    with pytest.raises(ValueError, match="sources holds 1 images, but Stable Diffusion 3 has no editing"):
        family.encode([Example("x", (as_tensor(picture(1, (32, 32))),))])


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
    load = ModelCheckpoint.pipeline

    def loading(self: ModelCheckpoint, *arguments: Any, **options: Any) -> Any:
        events.append(("encoders", "loaded"))
        if fails:
            raise ValueError("no encoders today")
        return load(self, *arguments, **options)

    monkeypatch.setattr(ModelCheckpoint, "pipeline", loading)
    if fails:
        with pytest.raises(ValueError, match="no encoders today"):
            family.prepare([EXAMPLES], tmp_path)
    else:
        family.prepare([EXAMPLES], tmp_path)
    assert events[0] == (base, "cpu") and events[-1] == (base, "cuda")
    assert set(events[1:-1]) == {("encoders", "loaded")}
