"""What a run is made of: its models' files and its rows by content, and the versions it runs on.

A path in a config says nothing about what lies there. A run that continues with another teacher behind the
same path would be neither the run it was nor a new one, so contents are noted with every checkpoint.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import torch

from danceopd.data import rows_fingerprint
from danceopd.families import Examples, Family, StudentConfig, Teacher
from danceopd.files import sha256_of, write_whole
from danceopd.settings import ConfigError

Content = dict[str, dict[str, str]]
"""By part of the run ("teacher 'realism'") and by its files' names: SHA-256 in hexadecimal digits."""

PROVENANCE: Final = "provenance.json"
_ROWS: Final = "rows"
FIELD: Final = "field of Python code"
"""Stands among a teacher's files where it is one, with its identity."""
_PACKAGES: Final = ("danceopd", "torch", "diffusers", "transformers", "peft", "safetensors", "numpy")
_READERS: Final = 4  # files hashed at once; what a fast disk feeds
_Stamp = tuple[int, int]  # size, and time of last change in nanoseconds


class Sources:
    """The files and rows of a run, looked at before its models are read from them.

    Args:
        family: says which files.
        student: the run's.
        teachers: all of them; the student may start from one that no route asks.
        asked: those that some route asks.
        data: the rows of each route, by its name.

    Raises:
        ValueError: a file is not there.
    """

    def __init__(
        self,
        family: Family,
        student: StudentConfig,
        teachers: Sequence[Teacher],
        asked: Sequence[Teacher],
        data: Mapping[str, Examples],
    ) -> None:
        self._parts = {
            _part(teacher): {} if teacher.identity is not None else family.files(teacher) for teacher in asked
        }
        self._own: dict[str, str] = {}
        self.describe(asked)
        self._parts["the student"] = family.files(student, teachers)
        self._part_of = {path: part for part, files in self._parts.items() for path in files.values()}
        self._stamps = {path: self._stamp(path) for path in self._part_of}
        self._data = data
        self._digests: dict[Path, str] = {}

    def describe(self, asked: Sequence[Teacher]) -> None:
        """Say which of the teachers are fields of Python code; the files that they had do not count."""
        self._own = {_part(teacher): teacher.identity for teacher in asked if teacher.identity is not None}

    def content(self, folder: Path) -> Content:
        """SHA-256 of every byte of the files, and the fingerprints of the rows.

        Tens of gigabytes take a minute, so that is done once for a run: a file whose place, size and time of
        last change are those noted in its folder is taken for what it was then. Who changes a file, keeps its
        size and sets its time back is not noticed; without the notes, PROVENANCE, all is read again.

        Args:
            folder: of the run; it need not be there.

        Raises:
            ConfigError: a file was changed or taken away since this object was made.
            ValueError: a row cannot be read.
        """
        if not self._digests:
            known = _read_notes(folder / PROVENANCE)
            with ThreadPoolExecutor(_READERS) as pool:
                digests = pool.map(lambda path: self._digest(path, known), self._stamps)
                self._digests = dict(zip(self._stamps, digests, strict=True))
        content = {
            part: {name: self._digests[path] for name, path in sorted(files.items())}
            for part, files in self._parts.items()
        }
        content |= {part: {FIELD: identity} for part, identity in self._own.items()}
        for route, rows in self._data.items():
            content[f"the data of route '{route}'"] = {_ROWS: rows_fingerprint(rows)}
        return content

    def write(self, folder: Path, device: torch.device) -> dict[str, Any]:
        """Write PROVENANCE into a run's folder, whole or not at all; returns what a checkpoint keeps of it.

        Raises:
            ConfigError, ValueError: as `content`.
            OSError: it cannot be written.
        """
        made_of = {"versions": versions(device), "content": self.content(folder)}
        notes = {
            str(path.resolve()): {"size": size, "changed": changed, "sha256": self._digests[path]}
            for path, (size, changed) in self._stamps.items()
        }
        text = json.dumps({**made_of, "files": notes}, indent=2)
        write_whole(folder / PROVENANCE, f"{text}\n".encode())
        return made_of

    def _digest(self, path: Path, known: Mapping[str, Any]) -> str:
        stamp = self._stamp(path)
        note = known.get(str(path.resolve()), {})
        if (note.get("size"), note.get("changed")) == stamp:
            digest = str(note["sha256"])
        else:
            try:
                digest = sha256_of(path)
            except OSError as error:
                raise self._gone(path, error) from None
        # What was loaded meanwhile may be neither the file before nor the one after.
        if not stamp == self._stamp(path) == self._stamps[path]:
            raise ConfigError(
                f"'{path}' of {self._part_of[path]} was changed while this run was starting: start it again "
                "when the file is whole."
            )
        return digest

    def _stamp(self, path: Path) -> _Stamp:
        try:
            about = path.stat()
        except OSError as error:
            raise self._gone(path, error) from None
        return about.st_size, about.st_mtime_ns

    def _gone(self, path: Path, error: OSError) -> ConfigError:
        return ConfigError(
            f"'{path}' of {self._part_of[path]} cannot be read ({error.strerror}): restore the file."
        )


def _part(teacher: Teacher) -> str:
    return f"teacher '{teacher.name}'"


def digests_of(files: Mapping[str, Path], folder: Path) -> dict[str, str]:
    """SHA-256 of files by their names; those that a run's notes know unchanged are not read again.

    Args:
        files: by any names.
        folder: of a run, as for `Sources.content`.

    Raises:
        OSError: a file cannot be read.
    """
    known = _read_notes(folder / PROVENANCE)
    digests = {}
    for name, path in sorted(files.items()):
        about, note = path.stat(), known.get(str(path.resolve()), {})
        same = (note.get("size"), note.get("changed")) == (about.st_size, about.st_mtime_ns)
        digests[name] = str(note["sha256"]) if same else sha256_of(path)
    return digests


def check_same_content(saved: Content, now: Content, where: Path) -> None:
    """Refuse to continue a run in `where` with other files or rows; what only one side knows does not count.

    Raises:
        ConfigError: one part has changed; the message names it and its file.
    """
    for part, after in now.items():
        before = saved.get(part, after)
        for name in sorted(before.keys() | after.keys()):
            old, new = before.get(name, ""), after.get(name, "")
            if old == new:
                continue
            if name == _ROWS:
                raise ConfigError(
                    f"{part} is not what it was when the run in '{where}' began (a text, an image, a size or "
                    "the order of rows has changed): restore it, or name another output_dir for a new run."
                )
            what = f"now {new[:12]}, then {old[:12]}" if old and new else "new" if new else "gone"
            raise ConfigError(
                f"{part} is made of other weights than when the run in '{where}' began ({name}: {what}): "
                "restore them, or name another output_dir for a new run."
            )


def versions(device: torch.device) -> dict[str, str]:
    """What the last bits of a result may hang on: packages by version, and the device by name."""
    known = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            known[package] = version(package)
        except PackageNotFoundError:
            continue
    if device.type == "cuda":
        known["device"] = torch.cuda.get_device_name(device)
    else:
        threads = torch.get_num_threads()
        known["device"] = f"CPU with {torch.backends.cpu.get_cpu_capability()}, threads: {threads}"
    return known


def tell_changed_versions(saved: Mapping[str, str], now: Mapping[str, str]) -> None:
    """One line on stderr where a run goes on with other versions than it was made with."""
    changed = [
        f"{name} {saved.get(name, 'none')} (now {now.get(name, 'none')})"
        for name in sorted(saved.keys() | now.keys())
        if saved and saved.get(name) != now.get(name)
    ]
    if changed:
        print(
            f"danceopd: this run was made with {', '.join(changed)}: from here on it may differ in the last "
            "bits",
            file=sys.stderr,
        )


def _read_notes(path: Path) -> dict[str, Any]:
    """What PROVENANCE says of files; nothing when it is not there or not ours: then they are read again."""
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
        return {place: note for place, note in files.items() if {"size", "changed", "sha256"} <= note.keys()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
