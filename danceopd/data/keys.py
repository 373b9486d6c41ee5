"""Keys that change when what they stand for changes: of any content, and of weights too large to read."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from danceopd.data.errors import DataError

_WEIGHTS: Final = (".safetensors", ".sft", ".gguf", ".bin", ".pt", ".pth", ".ckpt")
_CONFIGS: Final = (".json", ".jinja", ".model", ".tiktoken", ".txt", ".yaml", ".yml")
_PAPERS: Final = ("license", "notice", "readme")
_STRIDE: Final = 8 * 2**20  # bytes
_SAMPLE: Final = 4096  # bytes; what a disk reads at once


def content_key(*parts: object) -> str:
    """A key that two calls share exactly if their parts are the same: 64 hexadecimal digits (SHA-256).

    Type and place of every part count: ``("ab", "c")``, ``("a", "bc")`` and ``(b"ab", "c")`` have three keys,
    so do 1, 1.0, "1" and True. Of a tensor count dtype, shape and bytes, not the device; of a mapping not the
    order.

    Args:
        parts: str, bytes, int, float, bool, None, tensors, and sequences or mappings (from str) of these.

    Raises:
        TypeError: a part is of another type.
    """
    digest = hashlib.sha256()
    _feed(digest, parts)
    return digest.hexdigest()


def weights_fingerprint(path: str | Path) -> str:
    """A key of weights that takes seconds for tens of gigabytes: 64 hexadecimal digits.

    Made of the names and sizes of the weights files below ``path``, and of 4 KiB out of every 8 MiB of them
    and their last 4 KiB; of configs, tokenizers and weights files up to 8 MiB every byte counts. Links are
    followed. Times, hidden files, readmes, licences and files of other kinds do not count.

    It cannot see a change that keeps the size and lies between two samples, such as one small tensor replaced
    in a large file. Another training, merge, precision or quantisation changes nearly all bytes.

    Args:
        path: a folder, of a tokenizer too, or one weights file, whose own name does not count.

    Raises:
        DataError: nothing is there, a link leads nowhere, or the folder holds neither weights nor configs.
    """
    path = Path(path).expanduser()
    if path.is_file():
        return content_key("weights", [_of_file(path, in_full=False)])
    if not path.is_dir():
        raise DataError(f"weights '{path}' are not there: give a file or a folder that is.")
    files = weight_files(path)
    if not files:
        kinds = ", ".join((*_WEIGHTS, *_CONFIGS))
        raise DataError(f"'{path}' holds no weights and no configs ({kinds}): give a folder that does.")
    return content_key(
        "weights",
        {name: _of_file(file, in_full=file.suffix.lower() in _CONFIGS) for name, file in files.items()},
    )


def weight_files(folder: Path) -> dict[str, Path]:
    """The weights, configs and tokenizers below ``folder`` by their paths from there; links are followed.

    Hidden files, readmes, licences and files of other kinds do not count. None where there is no such folder.
    """
    return {file.relative_to(folder).as_posix(): file for file in sorted(_files_below(folder))}


def _files_below(folder: Path) -> Iterator[Path]:
    """Weights and configs, links followed, each folder once even where links go in a circle."""
    seen = set()
    for place, inner, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        inner[:] = [] if real in seen else [name for name in inner if not name.startswith(".")]
        if real in seen:
            continue
        seen.add(real)
        for name in names:
            file = Path(place, name)
            counts = file.suffix.lower() in (*_WEIGHTS, *_CONFIGS) and not name.startswith(".")
            if counts and not name.lower().startswith(_PAPERS):
                yield file


def _of_file(path: Path, *, in_full: bool) -> list[object]:
    """The size of a file, and the bytes of it that are looked at."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            if in_full or size <= _STRIDE:
                return [size, file.read()]
            samples = hashlib.sha256()
            for start in (*range(0, size - _SAMPLE, _STRIDE), size - _SAMPLE):
                file.seek(start)
                samples.update(file.read(_SAMPLE))
            return [size, samples.digest()]
    except OSError as error:
        raise DataError(f"weights file '{path}' cannot be read ({error.strerror}): restore it.") from None


def _feed(digest: Any, part: object) -> None:
    """Add a part: a letter for its type, a length, and that many bytes or further parts."""
    if part is None:
        _add(digest, b"n", b"")
    elif isinstance(part, bool):  # before int, which it is too
        _add(digest, b"?", bytes([part]))
    elif isinstance(part, int):
        _add(digest, b"i", str(part).encode())
    elif isinstance(part, float):
        _add(digest, b"f", struct.pack(">d", part))
    elif isinstance(part, str):
        _add(digest, b"s", part.encode("utf-8", "surrogatepass"))
    elif isinstance(part, (bytes, bytearray)):
        _add(digest, b"b", part)
    elif isinstance(part, Tensor):
        _head(digest, b"t", part.dim())
        _feed(digest, str(part.dtype))
        for side in part.shape:
            _feed(digest, side)
        flat = part.detach().cpu().contiguous().reshape(-1)
        _add(digest, b"b", flat.view(torch.uint8).numpy().data)
    elif isinstance(part, Mapping) and all(isinstance(name, str) for name in part):
        _head(digest, b"m", len(part))
        for name in sorted(part):
            _feed(digest, name)
            _feed(digest, part[name])
    elif isinstance(part, (list, tuple)):
        _head(digest, b"l", len(part))
        for item in part:
            _feed(digest, item)
    else:
        raise TypeError(
            f"a key cannot be made of a {type(part).__name__}: give text, numbers, bytes, tensors, or "
            "sequences and mappings of these."
        )


def _head(digest: Any, kind: bytes, length: int) -> None:
    digest.update(kind + struct.pack(">Q", length))


def _add(digest: Any, kind: bytes, content: bytes | bytearray | memoryview) -> None:
    _head(digest, kind, len(content))
    digest.update(content)
