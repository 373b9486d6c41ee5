"""What all benchmarks share: a user's copy that was checked, and where its evaluator looks for images."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
from PIL import Image

from danceopd.data import DataError, content_key, listed, load_image
from danceopd.evaluation.base import Case
from danceopd.files import sha256_of, what_is_missing, write_shared

UNPACKED: Final = "danceopd-images"
"""Folder within a user's copy for images that lie inside its tables."""

_KEY: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_VERSION: Final = 1  # of all layouts here
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_SUFFIXES: Final = {_PNG: ".png", b"\xff\xd8\xff": ".jpg", b"RIFF": ".webp"}


@dataclass(frozen=True)
class BenchmarkCopy:
    """Implements `danceopd.evaluation.Benchmark` by what was read from a user's copy.

    Args:
        name: what the command line calls it.
        tasks: in the benchmark's order, every key once.
        path: where the evaluator looks for image `number` of a case.
        files: other files that it looks for; they may be made when they are asked for.
        images_per_case: how many it wants.
        published: how many tasks the public benchmark has; a copy may have fewer.
        digests: SHA-256 of images that were read already.

    Raises:
        DataError: there is no task, or keys or paths cannot be names of files or are used twice.
    """

    name: str
    tasks: tuple[Case, ...]
    path: Callable[[Case, int], PurePosixPath]
    files: Mapping[PurePosixPath, bytes] = field(default_factory=dict)
    images_per_case: int = 1
    published: int | None = None
    digests: Mapping[Path, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.tasks:
            raise DataError(f"{self.name} has no task: give a copy, or options, with some.")
        taken: dict[PurePosixPath, str] = {}
        for case in self.tasks:
            path = self.path(case, 0)
            if not _KEY.fullmatch(case.key) or not all(map(is_plain, path.parts)):
                raise DataError(
                    f"task '{case.key}' of {self.name} cannot name the file '{path}': names are letters, "
                    "digits, '-', '_' and '.' alone."
                )
            if path in taken:
                raise DataError(
                    f"tasks '{taken[path]}' and '{case.key}' of {self.name} would share the image '{path}': "
                    "the copy holds a task twice, copy it anew."
                )
            taken[path] = case.key
        if len({case.key for case in self.tasks}) < len(self.tasks):
            raise DataError(f"{self.name} has two tasks of one key: give every task its own.")

    def cases(self) -> Sequence[Case]:
        """All tasks, in the benchmark's order."""
        return self.tasks

    def image_path(self, case: Case, number: int) -> PurePosixPath:
        """Where the evaluator looks for image `number` of a case, within a folder of its own."""
        return self.path(case, number)

    def metadata(self) -> Mapping[PurePosixPath, bytes]:
        """Other files that the evaluator looks for, within the same folder."""
        return self.files

    def fingerprint(self) -> str:
        """Changes when a task, an image of the copy or the layout does: 64 hexadecimal digits."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digests = dict(self.digests)

        def digest(path: Path | None) -> str | None:
            if path is None or path in digests:
                return None if path is None else digests[path]
            try:
                digests[path] = sha256_of(path)
            except OSError:
                digests[path] = "unreadable"
            return digests[path]

        tasks = [
            [
                *(case.key, case.category, case.capability, case.prompt, case.size, dict(case.about)),
                [*map(digest, case.sources), digest(case.mask), digest(case.target)],
                str(self.path(case, 0)),
            ]
            for case in self.tasks
        ]
        names = sorted(map(str, self.files))
        return content_key("benchmark", self.name, _VERSION, self.images_per_case, tasks, names)


def is_plain(name: str) -> bool:
    """Whether a text can be the name of a file or folder anywhere: no separators, and not ``..``."""
    return bool(name.strip(" .")) and not re.search(r'[\x00-\x1f/\\:*?"<>|]', name)


class Inspection:
    """Collects what a copy lacks, so that all of it is told at once.

    Args:
        title: of the benchmark.
        folder: the user's copy.

    Raises:
        DataError: there is no such folder.
    """

    def __init__(self, title: str, folder: Path) -> None:
        self.title, self.folder = title, folder
        self._faults: list[str] = []
        if not folder.is_dir():
            raise DataError(
                f"{title} is not at '{folder}', which is {'no folder' if folder.exists() else 'not there'}: "
                "give the folder of your copy."
            )

    def find(self, *names: str) -> Path:
        """The first of some paths in the copy that is there.

        Raises:
            DataError: none is, or it is not whole.
        """
        paths = [self.folder / name for name in names]
        path = next((path for path in paths if path.exists()), None)
        if path is None:
            others = f" (nor {', '.join(names[1:])})" if names[1:] else ""
            self.fault(f"'{names[0]}' is not there{others}")
        else:
            self.file(path)
        self.finish()
        assert path is not None
        return path

    def file(self, path: Path) -> Path:
        """Note a file that is not wholly there."""
        fault = what_is_missing(path)
        if fault is not None:
            self.fault(f"'{self._short(path)}' {fault}")
        return path

    def fault(self, text: str) -> None:
        """Note what is wrong, once."""
        if text not in self._faults:
            self._faults.append(text)

    def finish(self) -> None:
        """Tell what was found.

        Raises:
            DataError: there was anything.
        """
        if self._faults:
            count = "1 fault" if len(self._faults) == 1 else f"{len(self._faults)} faults"
            raise DataError(
                f"'{self.folder}' is no whole copy of {self.title}, {count}: {listed(self._faults)}; copy "
                "these anew from where it is published."
            )

    def _short(self, path: Path) -> Path:
        return path.relative_to(self.folder) if path.is_relative_to(self.folder) else path


class Unpacked:
    """Images that lie inside a copy's tables, as files that are named by their content.

    Any number of processes may unpack the same copy at once, and be killed at any moment.

    Args:
        folder: where the files go; made when it is needed.

    Attributes:
        digests: SHA-256 of the files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.digests: dict[Path, str] = {}

    def image(self, cell: Any, base: Path) -> Path | None:
        """The file of an image in a cell, written if it is not there yet; None where the cell is blank.

        Args:
            cell: encoded bytes, or ``{"bytes": ..., "path": ...}``; of a path alone that file is meant.
            base: what such a path starts at.

        Raises:
            DataError: the folder takes no files.
        """
        content = cell.get("bytes") if isinstance(cell, Mapping) else cell
        if content is None and isinstance(cell, Mapping) and cell.get("path"):
            return inside(base, cell["path"])
        return self.put(content) if isinstance(content, bytes) and content else None

    def put(self, content: bytes) -> Path:
        """The file with this content.

        Raises:
            DataError: the folder takes no files.
        """
        digest = hashlib.sha256(content).hexdigest()
        suffix = next((suffix for start, suffix in _SUFFIXES.items() if content.startswith(start)), ".bin")
        path = self._folder / f"{digest}{suffix}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if not path.exists() or path.read_bytes() != content:
                write_shared(path, content)
        except OSError as error:
            reason = str(error).partition(";")[0]
            raise DataError(
                f"the images cannot be unpacked ({reason}): name another folder as unpack_to."
            ) from None
        self.digests[path] = digest
        return path


def inside(base: Path, name: str) -> Path:
    """The file that a copy names below one of its folders.

    Raises:
        DataError: it lies outside: what a table names is read, kept beside the results and shown to judges.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise DataError(f"the copy names the file '{name}', which lies outside of it: get the copy anew.")
    return base / name


class PngFiles(Mapping[PurePosixPath, bytes]):
    """Images as the PNG files that an evaluator looks for, read when they are asked for.

    Args:
        images: the images by where the evaluator looks.
    """

    def __init__(self, images: Mapping[PurePosixPath, Path]) -> None:
        self._images = images

    def __getitem__(self, path: PurePosixPath) -> bytes:
        """The file's content; an image that cannot be read is handed on as it is.

        Raises:
            OSError: it is not there.
        """
        content = self._images[path].read_bytes()
        if content.startswith(_PNG):
            return content
        try:
            return png(load_image(content, Path(), path.name).pixels)
        except DataError:
            return content

    def __iter__(self) -> Iterator[PurePosixPath]:
        return iter(self._images)

    def __len__(self) -> int:
        return len(self._images)


def png(pixels: Any) -> bytes:
    """A PNG file of an image, uint8 [3, H, W], or of a mask [H, W]."""
    array = pixels.numpy()
    file = BytesIO()
    Image.fromarray(np.ascontiguousarray(array.transpose(1, 2, 0) if array.ndim == 3 else array)).save(
        file, "PNG"
    )
    return file.getvalue()
