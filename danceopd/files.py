"""Files that are whole, or as they were before, and that are known by their content."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import uuid4

if TYPE_CHECKING:
    from torch import Tensor

_POINTER: Final = b"version https://git-lfs.github.com/spec/"


def check_writable(path: Path) -> None:
    """Find what keeps the file ``path`` from being written, before the work for it begins; leaves no trace.

    Raises:
        ValueError: ``path`` is a folder, or its folder is not there or takes no files.
    """
    if path.is_dir():
        raise ValueError(f"cannot write '{path}': it is a folder; name a file in it.")
    if not path.parent.is_dir():
        raise ValueError(f"cannot write '{path}': the folder '{path.parent}' is not there; make it first.")
    try:
        # The one question that permissions, full disks and read-only mounts all answer.
        with tempfile.TemporaryFile(dir=path.parent) as file:
            file.write(b"\0")
    except OSError as error:
        raise ValueError(f"cannot write '{path}': {error.strerror}; choose another folder.") from error


def what_is_missing(path: Path) -> str | None:
    """Why a file is not wholly there, in words that follow its name, such as "is empty"; None where it seems
    to be.

    No more than its first bytes are looked at.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(_POINTER))
    except (FileNotFoundError, NotADirectoryError):
        return "is not there"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if not start:
        return "is empty"
    return "is a pointer of Git LFS in place of the file" if start == _POINTER else None


def write_whole(path: Path, content: bytes) -> Path:
    """Write ``content`` such that ``path`` is never seen half-written, and return it.

    Raises:
        OSError: it cannot be written; what was there before stays.
    """
    with _replacing(path) as partial:
        partial.write_bytes(content)
    return path


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Path:
    """Write a safetensors file such that ``path`` is never seen half-written, and return it.

    Tensors go to the disk from where they lie: those on the CPU in one piece are never copied.

    Raises:
        OSError: it cannot be written; what was there before stays.
    """
    from safetensors import SafetensorError  # with torch: this module is imported by what must be quick
    from safetensors.torch import save_file

    with _replacing(path) as partial, keeping_mode(partial):
        try:
            whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            save_file(whole, partial, dict(metadata))
        except SafetensorError as error:
            raise OSError(" ".join(str(error).split()).rstrip(".")) from error
    return path


def write_shared(path: Path, content: bytes) -> Path:
    """`write_whole` for a file that several processes may write at once; a killed one leaves a part behind.

    Raises:
        OSError: as `write_whole`.
    """
    with _replacing(path, f".{uuid4().hex}") as partial:
        partial.write_bytes(content)
    return path


@contextmanager
def keeping_mode(path: Path) -> Iterator[None]:
    """Make the file ``path``, and keep the mode that the umask gives it, however the block writes it anew.

    For safetensors, which hides its files from all other users.
    """
    path.touch()
    mode = path.stat().st_mode
    yield
    path.chmod(mode)


@contextmanager
def _replacing(path: Path, part: str = "") -> Iterator[Path]:
    """An empty file beside ``path`` that takes its place when all went well."""
    partial = path.with_name(f"{path.name}{part}.partial")
    try:
        partial.touch()
        yield partial
        partial.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"cannot write '{path}': {reason}; free space or choose another folder.") from error
    finally:
        partial.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """SHA-256 of all bytes of a file, 64 hexadecimal digits; lets other threads run meanwhile.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
