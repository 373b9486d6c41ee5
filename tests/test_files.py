"""Files are whole, readable as others are, and as they were before where they cannot be written."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from danceopd.files import write_tensors, write_whole


def test_tensors_are_written_whole_for_all_readers(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0).view(2, 3).T, "b": torch.ones(2, dtype=torch.bfloat16)}
    path = write_tensors(tmp_path / "x.safetensors", tensors, {"kind": "test"})
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"kind": "test"}
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in tensors.items())
    plain = write_whole(tmp_path / "x.txt", b"x")
    assert path.stat().st_mode == plain.stat().st_mode
    assert sorted(tmp_path.iterdir()) == [path, plain]


def test_tensors_are_not_copied_on_their_way(tmp_path: Path) -> None:
    tensors = {str(number): torch.zeros(1 << 18) for number in range(4)}
    tracemalloc.start()
    try:
        write_tensors(tmp_path / "x.safetensors", tensors, {})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < tensors["0"].nbytes


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tensors(tmp_path / "x.safetensors", {"a": torch.ones(1)}, {})
    before = path.read_bytes()

    def full(*arguments: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OSError, match=r"^cannot write '.*x\.safetensors': .*No space left on device"):
        write_tensors(path, {"a": torch.zeros(1)}, {})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError, match=r"^cannot write '.*none.*': No such file"):
        write_tensors(tmp_path / "none" / "x.safetensors", {}, {})
