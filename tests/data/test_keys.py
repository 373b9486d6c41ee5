from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from danceopd.data import DataError, content_key, weights_fingerprint

PART = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.tuples(inner, inner) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


def exact(part: Any) -> Any:
    """What tells parts apart, written in another way than the key is."""
    if isinstance(part, dict):
        return "dict", tuple(sorted((name, exact(value)) for name, value in part.items()))
    if isinstance(part, (tuple, list)):
        return "list", tuple(map(exact, part))
    return type(part).__name__, struct.pack(">d", part) if isinstance(part, float) else part


@given(st.lists(PART, max_size=3), st.lists(PART, max_size=3))
def test_parts_share_a_key_exactly_if_they_are_the_same(first: list[Any], second: list[Any]) -> None:
    assert (content_key(*first) == content_key(*second)) == (exact(first) == exact(second))
    assert content_key(*first) == content_key(*first)


def test_what_looks_alike_has_keys_of_its_own() -> None:
    same = torch.arange(4, dtype=torch.int32)
    parts: list[tuple[Any, ...]] = [
        (),
        ("",),
        ("ab", "c"),
        ("a", "bc"),
        ("abc",),
        (("ab", "c"),),
        (b"ab", "c"),
        (1,),
        (1.0,),
        ("1",),
        (True,),
        (None,),
        (0.0,),
        (-0.0,),
        ({"a": 1, "b": 2},),
        ({"a": 2, "b": 1},),
        ({},),
        ((),),
        (same,),
        (same.view(2, 2),),
        (same.view(torch.float32),),
        (same.long(),),
        (same.numpy().tobytes(),),
        (torch.zeros(0, 3),),
        (torch.zeros(3, 0),),
        (torch.tensor(1.0),),
        (torch.tensor([1.0]),),
        (torch.tensor(1.0, dtype=torch.bfloat16),),
    ]
    keys = [content_key(*part) for part in parts]
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 64 and set(key) <= set("0123456789abcdef") for key in keys)


def test_the_order_of_a_mapping_and_the_layout_of_a_tensor_do_not_matter() -> None:
    assert content_key({"a": 1, "b": 2}) == content_key({"b": 2, "a": 1})
    grid = torch.arange(6).view(2, 3)
    assert content_key(grid.t()) == content_key(grid.t().contiguous())
    assert content_key(grid.float()) == content_key(grid.float().requires_grad_())
    assert content_key(*[1, (2, 3)]) == content_key(1, [2, 3])


def test_half_a_character_is_a_key_too() -> None:
    assert content_key("\ud83d") != content_key("?")


@pytest.mark.parametrize("part", [object(), torch.float32, Path("a"), {1}, {1: 2}])
def test_what_no_key_is_made_of_is_one_sentence(part: object) -> None:
    with pytest.raises(TypeError, match=r"a key cannot be made of a"):
        content_key(part)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder laid out as a pipeline, its transformer larger than what is read in full."""
    for part in ("transformer", "text_encoder"):
        (tmp_path / "model" / part).mkdir(parents=True)
        (tmp_path / f"model/{part}/config.json").write_text('{"layers": 2}')
    save_file({"w": torch.zeros(10, 2**20)}, tmp_path / "model/transformer/model.safetensors")
    save_file({"w": torch.zeros(10)}, tmp_path / "model/text_encoder/model.safetensors")
    (tmp_path / "model/README.md").write_text("a model")
    return tmp_path / "model"


def flip(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize("place", [0, 4095, 8 * 2**20, 8 * 2**20 + 4095, 40 * 2**20])
def test_a_sampled_byte_changes_the_fingerprint(model: Path, place: int) -> None:
    before = weights_fingerprint(model)
    flip(model / "transformer/model.safetensors", place)
    assert weights_fingerprint(model) != before
    flip(model / "transformer/model.safetensors", place)
    assert weights_fingerprint(model) == before


def test_any_byte_of_a_small_file_and_the_last_of_a_large_one_count(model: Path) -> None:
    before = weights_fingerprint(model)
    for name in (
        "text_encoder/model.safetensors",
        "text_encoder/config.json",
        "transformer/model.safetensors",
    ):
        place = (model / name).stat().st_size - 1
        flip(model / name, place)
        assert weights_fingerprint(model) != before
        flip(model / name, place)


def test_sizes_names_and_further_files_count(model: Path) -> None:
    keys = [weights_fingerprint(model)]
    with (model / "transformer/model.safetensors").open("ab") as file:
        file.write(b"\0")
    keys.append(weights_fingerprint(model))
    (model / "text_encoder/model.safetensors").rename(model / "text_encoder/other.safetensors")
    keys.append(weights_fingerprint(model))
    (model / "text_encoder/merges.txt").write_text("a b")
    keys.append(weights_fingerprint(model))
    assert len(set(keys)) == 4


def test_times_papers_links_and_the_place_do_not_count(model: Path, tmp_path: Path) -> None:
    before = weights_fingerprint(model)
    os.utime(model / "transformer/model.safetensors", (1, 1))
    (model / "README.md").write_text("changed")
    (model / "LICENSE.txt").write_text("changed")
    (model / "model.lock").write_text("")
    (model / ".cache").mkdir()
    (model / ".cache/x.json").write_text("{}")
    (model / "preview.png").write_bytes(b"")
    assert weights_fingerprint(model) == before
    # As the hub's own cache does: files are links to blobs that have no names.
    blob = tmp_path / "blob"
    (model / "transformer/model.safetensors").rename(blob)
    (model / "transformer/model.safetensors").symlink_to(blob)
    assert weights_fingerprint(model) == before
    model.rename(tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    assert (
        weights_fingerprint(tmp_path / "link") == weights_fingerprint(str(tmp_path / "elsewhere")) == before
    )
    flip(blob, 0)
    assert weights_fingerprint(tmp_path / "link") != before


def test_linked_folders_are_followed_once(model: Path, tmp_path: Path) -> None:
    (model / "text_encoder").rename(tmp_path / "text_encoder")
    without = weights_fingerprint(model)
    (model / "text_encoder").symlink_to(tmp_path / "text_encoder")
    assert weights_fingerprint(model) != without
    (model / "circle").symlink_to(model)
    weights_fingerprint(model)


def test_one_file_is_enough_and_its_name_does_not_count(tmp_path: Path) -> None:
    save_file({"w": torch.ones(3)}, tmp_path / "a.safetensors")
    before = weights_fingerprint(tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").rename(tmp_path / "b.safetensors")
    assert weights_fingerprint(tmp_path / "b.safetensors") == before
    flip(tmp_path / "b.safetensors", 30)
    assert weights_fingerprint(tmp_path / "b.safetensors") != before


def test_of_twenty_gigabytes_few_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Counted(io.FileIO):
        total = 0

        def read(self, size: int | None = -1, /) -> bytes:
            content = super().read(size)
            Counted.total += len(content)
            return content

    with (tmp_path / "huge.safetensors").open("wb") as file:
        file.truncate(20 * 2**30)  # a hole, which takes no room on the disk
    monkeypatch.setattr(Path, "open", lambda path, mode: Counted(path, mode))
    weights_fingerprint(tmp_path)
    assert 0 < Counted.total < 16 * 2**20


def test_a_tokenizer_has_a_fingerprint(tmp_path: Path) -> None:
    keys = set()
    for words in ("one", "two"):
        (tmp_path / "tokenizer.json").write_text(words)
        keys.add(weights_fingerprint(tmp_path))
    assert len(keys) == 2


def test_what_has_no_fingerprint_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"weights '.*missing' are not there: give a file or a folder that is"
    ):
        weights_fingerprint(tmp_path / "missing")
    (tmp_path / "README.md").write_text("a model")
    with pytest.raises(DataError, match=r"holds no weights and no configs \(.safetensors"):
        weights_fingerprint(tmp_path)
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match=r"weights file '.*model.safetensors' cannot be read \(No such file"):
        weights_fingerprint(tmp_path)
