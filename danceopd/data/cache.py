"""What encoders made of the rows, kept on disk by content, so that they run once and can leave the memory."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from danceopd.data.keys import content_key

_KEY: Final = re.compile(r"[0-9a-f]{64}")
_DIGEST: Final = "danceopd:content"
_METADATA: Final = "__metadata__"  # of safetensors' format


class TensorCache:
    """Named tensors by key, one safetensors file each, in sub-folders by the key's first two characters.

    Any number of processes may read and write it at once, and be killed at any moment: a file is whole or not
    there. One that was damaged later is noticed when it is read, since it carries the digest of its content,
    and is removed, so that it can be made again.

    Args:
        folder: made by the first `put`.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def path(self, key: str) -> Path:
        """Where the tensors of ``key`` are kept.

        Raises:
            ValueError: ``key`` is none that `content_key` makes.
        """
        if not _KEY.fullmatch(key):
            raise ValueError(f"key must be 64 hexadecimal digits, got {key!r}: make it with content_key.")
        return self.folder / key[:2] / f"{key}.safetensors"

    def has(self, key: str) -> bool:
        """Whether ``key`` is there as long as its header says; its bytes are not read, as `get` does.

        Raises:
            ValueError: as `path`.
        """
        path = self.path(key)
        try:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                size = file.seek(0, os.SEEK_END)
                if not 0 < length <= size - 8:
                    return False
                file.seek(8)
                header = json.loads(file.read(length))
                ends = [about["data_offsets"][1] for name, about in header.items() if name != _METADATA]
                return bool(_DIGEST in header[_METADATA] and size == 8 + length + max(ends, default=0))
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return False  # it is gone, or its header is damaged in one of many ways

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The tensors of ``key`` on the CPU, the caller's own; None when they are not there whole.

        Raises:
            ValueError: as `path`.
        """
        path = self.path(key)
        try:
            # Not mapped into memory, where a file that is cut short later would kill the process.
            with path.open("rb") as file:
                content, about = file.read(), os.fstat(file.fileno())
        except OSError:
            return None
        with suppress(SafetensorError, KeyError):  # KeyError: of a dtype that torch has not
            tensors = load(content)
            if _digest_in(content) == content_key(tensors):
                return tensors
        with suppress(OSError):
            if os.path.samestat(about, path.stat()):  # or another process has made it anew
                path.unlink()
        return None

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep ``tensors`` under ``key``, exactly as they are, in place of what was there.

        Args:
            key: of what they were made of; who writes it again is taken to write the same.
            tensors: of any shape and of any dtype that safetensors has, on any device.

        Raises:
            ValueError: as `path`.
            OSError: they cannot be written; what was there before stays.
        """
        path = self.path(key)
        # Copied, because safetensors takes no two tensors that share memory.
        whole = {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in tensors.items()
        }
        content = save(whole, metadata={_DIGEST: content_key(whole)})
        # A name of its own for each writer, or one would rename what another is still writing.
        partial = path.with_name(f".{key}.{os.getpid()}-{uuid4().hex}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(content)
            partial.replace(path)
            # Left by writers that were killed; one that still writes finds its work done.
            for left in path.parent.glob(f".{key}.*"):
                left.unlink(missing_ok=True)
        except OSError as error:
            if not (isinstance(error, FileNotFoundError) and path.is_file()):
                with suppress(OSError):
                    partial.unlink()
                reason = error.strerror or error
                raise OSError(
                    f"cannot write '{path}': {reason}; free space or choose another folder."
                ) from error


def _digest_in(content: bytes) -> str | None:
    """The digest that a whole safetensors file carries in its header: 8 bytes of length, then JSON."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    digest = header.get(_METADATA, {}).get(_DIGEST)
    return digest if isinstance(digest, str) else None
