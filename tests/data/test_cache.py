from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from danceopd.data import TensorCache, content_key

KEY = content_key("a row")
TENSORS = {
    "embeds": torch.linspace(-3, 3, 24).view(4, 6).to(torch.bfloat16),
    "mask": torch.tensor([True, False]),
    "ids": torch.arange(3),
    "scalar": torch.tensor(1.5, dtype=torch.float64),
    "nothing": torch.zeros(0, 3, dtype=torch.float16),
    "small": torch.ones(2, dtype=torch.float8_e4m3fn),
    "odd": torch.tensor([float("nan"), -0.0, float("inf")]),
}


def same(first: dict[str, Tensor] | None, second: dict[str, Tensor]) -> bool:
    return first is not None and content_key(first) == content_key(second)


def test_what_is_put_is_got_bit_for_bit(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path / "cache")
    assert cache.get(KEY) is None and not (tmp_path / "cache").exists()
    cache.put(KEY, TENSORS)
    assert same(TensorCache(tmp_path / "cache").get(KEY), TENSORS)
    assert cache.path(KEY) == tmp_path / "cache" / KEY[:2] / f"{KEY}.safetensors"
    assert [path.name for path in cache.path(KEY).parent.iterdir()] == [f"{KEY}.safetensors"]
    assert load_file(cache.path(KEY)).keys() == TENSORS.keys()  # any reader of safetensors will do


def test_what_is_there_is_told_by_its_header(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)
    assert not cache.has(KEY)
    for tensors in (TENSORS, {}):
        cache.put(KEY, tensors)
        assert cache.has(KEY)
    cache.put(KEY, TENSORS)
    content = bytearray(cache.path(KEY).read_bytes())
    content[-1] ^= 1
    cache.path(KEY).write_bytes(content)
    assert cache.has(KEY)  # as long as nobody reads it
    assert cache.get(KEY) is None
    assert not cache.has(KEY)


def test_what_another_process_made_anew_is_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = TensorCache(tmp_path)
    cache.put(KEY, TENSORS)
    cache.path(KEY).write_bytes(b"damaged")

    def load(content: bytes) -> None:
        cache.put(KEY, TENSORS)
        raise SafetensorError("damaged")

    with monkeypatch.context() as patch:
        patch.setattr("danceopd.data.cache.load", load)
        assert cache.get(KEY) is None
    assert same(cache.get(KEY), TENSORS)


def test_views_and_shared_memory_are_kept_as_they_look(tmp_path: Path) -> None:
    grid = torch.arange(12.0).view(3, 4)
    tensors = {"t": grid.t(), "row": grid[1], "again": grid, "same": grid, "wide": grid[:1].expand(5, 4)}
    cache = TensorCache(tmp_path)
    cache.put(KEY, {**tensors, "grad": grid.clone().requires_grad_()})
    assert same(cache.get(KEY), {**tensors, "grad": grid})


def test_tensors_that_are_got_are_the_callers_own(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)
    cache.put(KEY, {"a": torch.zeros(3)})
    got = cache.get(KEY)
    assert got is not None
    got["a"].fill_(1)
    cache.path(KEY).write_bytes(b"")  # nor do they need the file any longer
    assert got["a"].tolist() == [1, 1, 1]


def test_putting_again_takes_the_place(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)
    for value in (1.0, 2.0):
        cache.put(KEY, {"a": torch.tensor(value)})
        assert same(cache.get(KEY), {"a": torch.tensor(value)})


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    cache = TensorCache(tmp_path_factory.mktemp("cache"))
    cache.put(KEY, TENSORS)
    return cache.path(KEY).read_bytes()


def test_any_flipped_byte_is_a_miss(content: bytes, tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)
    path = cache.path(KEY)
    path.parent.mkdir(parents=True)
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        assert cache.get(KEY) is None, place
        assert not cache.has(KEY)


@given(data=st.data())
def test_a_file_written_over_is_a_miss_or_the_same(content: bytes, data: st.DataObject) -> None:
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content) - 1))
        damaged[start : start + 9] = data.draw(st.binary(max_size=9))
    with TemporaryDirectory() as folder:
        cache = TensorCache(folder)
        cache.path(KEY).parent.mkdir()
        cache.path(KEY).write_bytes(damaged)
        cache.has(KEY)
        got = cache.get(KEY)
        assert got is None or same(got, TENSORS)
        assert cache.has(KEY) == (got is not None)


def test_a_file_cut_short_is_a_miss_and_written_anew(content: bytes, tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)
    path = cache.path(KEY)
    path.parent.mkdir(parents=True)
    for length in [*range(0, len(content), 7), len(content) - 1]:
        path.write_bytes(content[:length])
        assert not cache.has(KEY)
        assert cache.get(KEY) is None
    cache.put(KEY, TENSORS)
    assert same(cache.get(KEY), TENSORS)


def test_a_file_of_someone_else_is_a_miss(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)
    cache.path(KEY).parent.mkdir(parents=True)
    save_file(TENSORS, cache.path(KEY))
    assert not cache.has(KEY)
    assert cache.get(KEY) is None and not cache.path(KEY).exists()
    cache.path(KEY).mkdir()
    assert not cache.has(KEY)
    assert cache.get(KEY) is None


@pytest.mark.parametrize("key", ["", "abc", "../" * 20, KEY.upper(), KEY + "\n", f"{KEY[:-1]}/"])
def test_a_key_of_another_make_is_one_sentence(tmp_path: Path, key: str) -> None:
    cache = TensorCache(tmp_path)
    for use in (cache.get, cache.has, lambda key: cache.put(key, {})):
        with pytest.raises(
            ValueError, match=r"key must be 64 hexadecimal digits, got .*: make it with content_key"
        ):
            use(key)


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match=r"cannot write '.*': .*; free space or choose another folder") as error:
        TensorCache(tmp_path / "file").put(KEY, TENSORS)
    assert error.value.errno is None
    assert TensorCache(tmp_path / "file").get(KEY) is None


# Forks two writers for every line it is sent, so that torch is imported once.
WRITERS = """
import os, sys, torch
from danceopd.data import TensorCache, content_key
cache = TensorCache(sys.argv[1])
def fork():
    writer = os.fork()
    while writer == 0:
        for number in range(4):
            cache.put(content_key(number), {"a": torch.full((500_000,), float(number))})
    return writer
for line in sys.stdin:
    writers = fork(), fork()
    print(*writers, flush=True)
    for writer in writers:
        os.waitpid(writer, 0)
"""


def check_whole(cache: TensorCache, wanted: dict[str, dict[str, Tensor]]) -> None:
    for key, tensors in wanted.items():
        was_there = cache.path(key).exists()
        got = cache.get(key)
        assert same(got, tensors) or (got is None and not was_there)


def test_a_killed_writer_leaves_nothing_half_written(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)
    wanted = {content_key(number): {"a": torch.full((500_000,), float(number))} for number in range(4)}
    command = [sys.executable, "-c", WRITERS, str(tmp_path)]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True, bufsize=1) as parent:
        assert parent.stdin is not None and parent.stdout is not None
        for rounds in range(5):
            parent.stdin.write("go\n")
            writers = [int(writer) for writer in parent.stdout.readline().split()]
            try:
                for _ in range(rounds):
                    check_whole(cache, wanted)
                # Most likely to kill them in the middle of a write.
                while not list(tmp_path.glob("*/.*")):
                    pass
            finally:
                for writer in writers:
                    os.kill(writer, signal.SIGKILL)
            check_whole(cache, wanted)
    for key, tensors in wanted.items():
        cache.put(key, tensors)
        assert same(cache.get(key), tensors)
    assert not list(tmp_path.glob("*/.*"))


def test_who_goes_on_removes_what_a_killed_writer_left(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)
    path = cache.path(KEY)
    path.parent.mkdir()
    left, other = path.with_name(f".{KEY}.1-left"), path.with_name(f".{KEY[:-1]}.1-left")
    left.write_bytes(b"half")
    other.write_bytes(b"of another key, whose writer may live")
    cache.put(KEY, TENSORS)
    assert sorted(path.parent.iterdir()) == sorted([path, other])


def test_a_writer_who_was_overtaken_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = TensorCache(tmp_path)
    write = Path.write_bytes

    def overtaken(path: Path, content: bytes) -> int:
        length = write(path, content)
        monkeypatch.setattr(Path, "write_bytes", write)
        cache.put(KEY, TENSORS)
        assert not path.exists()
        return length

    monkeypatch.setattr(Path, "write_bytes", overtaken)
    cache.put(KEY, TENSORS)
    assert same(cache.get(KEY), TENSORS)
