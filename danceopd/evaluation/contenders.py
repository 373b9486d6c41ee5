"""Who is evaluated: a run's student, and whom it is compared with."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Final

import torch

from danceopd.evaluation.base import Benchmark, Case
from danceopd.evaluation.record import RECORD
from danceopd.families import Family, Teacher, load_family
from danceopd.families.base import check_has_field
from danceopd.flow import VelocityField
from danceopd.settings import ConfigError, nearest
from danceopd.training import CheckpointError, list_checkpoints, load_run_config, load_student
from danceopd.training.provenance import digests_of
from danceopd.training.run_folder import CHECKPOINTS, CONFIG

STUDENT: Final = "student"
BASE: Final = "base"

_PLAIN: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
# What changes a teacher's images beside its files, which are known by their content. An evaluation goes on
# under these same keys alone.
_OF_TEACHERS: Final = ("scale", "guidance_scale", "guidance_vector", "quantization")


@dataclass(frozen=True)
class Contender:
    """A model that draws the benchmark.

    Args:
        name: in the report, and of its folder: letters, digits, '-', '_' and '.'.
        family: of the model.
        field: loads its velocity field; called where images are missing.
        identity: what the model is, such as the hashes of its weights; values for JSON.
        only: capabilities and categories that it is drawn and compared on; all when empty.

    Raises:
        ValueError: the name cannot be that of a folder.
    """

    name: str
    family: Family
    field: Callable[[], VelocityField]
    identity: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    only: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        _check_name(self.name)

    @property
    def folder(self) -> str:
        """Name of its folder; one for each part of a benchmark that it draws."""
        return ".".join([self.name, *sorted(re.sub(r"[^A-Za-z0-9_-]+", "-", part) for part in self.only)])


@dataclass(frozen=True)
class FormerStudent:
    """The student of an evaluation that lies in another folder; only read.

    Args:
        name: in the report.
        path: the folder that the evaluation was written to.
        only: as for `Contender`.

    Raises:
        ValueError: the name is not plain.
    """

    name: str
    path: Path
    only: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        _check_name(self.name)


AnyContender = Contender | FormerStudent


class _Some(Mapping[PurePosixPath, bytes]):
    """Some of the files of another mapping, which may make them when they are asked for."""

    def __init__(self, files: Mapping[PurePosixPath, bytes], names: Sequence[PurePosixPath]) -> None:
        self._files, self._names = files, dict.fromkeys(names)

    def __getitem__(self, path: PurePosixPath) -> bytes:
        if path not in self._names:
            raise KeyError(path)
        return self._files[path]

    def __iter__(self) -> Iterator[PurePosixPath]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True)
class Part:
    """The cases of a benchmark of some capabilities and categories; implements `Benchmark`.

    Args:
        whole: the benchmark.
        only: names of capabilities and categories; all when empty.

    Raises:
        ValueError: the benchmark has none of one of them.
    """

    whole: Benchmark
    only: frozenset[str]

    def __post_init__(self) -> None:
        known = {part: None for case in self.whole.cases() for part in (case.capability, case.category)}
        for part in sorted(self.only - known.keys()):
            raise ValueError(
                f"'{part}' is no capability or category of {self.whole.name}: {nearest(part, known)}"
            )

    @property
    def name(self) -> str:
        """That of the whole."""
        return self.whole.name

    @property
    def images_per_case(self) -> int:
        """As of the whole."""
        return self.whole.images_per_case

    def cases(self) -> Sequence[Case]:
        """Those of the part, in the benchmark's order."""
        every = self.whole.cases()
        return [case for case in every if not self.only or {case.capability, case.category} & self.only]

    def image_path(self, case: Case, number: int) -> PurePosixPath:
        """As in the whole."""
        return self.whole.image_path(case, number)

    def metadata(self) -> Mapping[PurePosixPath, bytes]:
        """That of the whole but for folders without an image of the part, where GenEval's evaluator ends."""
        files = self.whole.metadata()
        if not self.only:
            return files
        numbers = range(self.images_per_case)
        images = [self.image_path(case, number) for case in self.cases() for number in numbers]
        folders = {folder for image in images for folder in image.parents}
        return _Some(files, [path for path in files if path.parent in folders])

    def fingerprint(self) -> str:
        """That of the whole, with the part's name, since a batch may round otherwise in a part."""
        return "+".join([self.whole.fingerprint(), *sorted(self.only)])


def contenders_of_run(
    run: str | Path, against: Sequence[str] = (), *, device: str | None = None
) -> list[AnyContender]:
    """A run's student, at its newest checkpoint, and others; no weights are loaded yet.

    Args:
        run: an output_dir.
        against: each one of ``base``, the name of a teacher of the run, the output_dir of another run, or the
            folder of a former evaluation; ``NAME:PART``, or ``NAME:PART+PART``, is compared on these
            capabilities (t2i, edit) and categories alone. A run is called by its folder's name, an evaluation
            in RUN/eval by the run's, with a number behind it where that name is another's already.
        device: the run's own when None.

    Raises:
        ConfigError: `run` is not the folder of a run.
        CheckpointError: it has no checkpoint yet.
        ValueError: a name is not known, or is there twice.
    """
    student, teachers, family = _student(Path(run), STUDENT, device=device)
    found: list[AnyContender] = [student]
    folders: dict[Path, str] = {}
    for text in against:
        name, only = _parts(text, teachers)
        if name == BASE and name not in teachers:
            found.append(_teacher(Teacher(BASE), family, Path(run), only))
        elif name in teachers:
            found.append(_teacher(teachers[name], family, Path(run), only))
        elif (Path(name) / RECORD).is_file():
            label = _label(Path(name), folders, teachers)
            found.append(FormerStudent(label, Path(name), only))
        elif (Path(name) / CONFIG).is_file():
            label = _label(Path(name), folders, teachers)
            found.append(_student(Path(name), label, device=device, only=only)[0])
        else:
            known = [BASE, *teachers]
            raise ValueError(
                f"'{name}' to compare with is neither a teacher of the run nor the folder of a run or of an "
                f"evaluation: {nearest(name, known)}"
            )
    names = [contender.name for contender in found]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"'{name}' would be compared twice: name it once in against.")
    return found


def _student(
    run: Path, name: str, *, device: str | None, only: frozenset[str] = frozenset()
) -> tuple[Contender, dict[str, Teacher], Family]:
    if not (run / CONFIG).is_file():
        raise ConfigError(f"'{run}' is not the folder of a run: it has no {CONFIG}; name a run's output_dir.")
    config = load_run_config(run / CONFIG)
    checkpoints = list_checkpoints(run / CHECKPOINTS)
    if not checkpoints:
        raise CheckpointError(f"the run '{run}' has no checkpoint yet: train it first, or save more often.")
    family = load_family(
        config.family,
        dtype=getattr(torch, config.dtype),
        device=device or config.device,
        resolution=config.resolution,
    )

    @cache
    def load() -> VelocityField:
        return load_student(run, family=family).field

    teachers = {teacher.name: teacher for teacher in config.teachers}
    identity = {**_identity_of(checkpoints[-1]), **_precision(family)}
    return Contender(name, family, load, identity, only), teachers, family


def _identity_of(checkpoint: Path) -> dict[str, Any]:
    """Hashes of the trained weights, and of what lies under them; `load_student` checks the former."""
    try:
        state = json.loads((checkpoint / "state.json").read_bytes())
        trained = {name: str(of) for name, of in state["sha256"].items() if not name.startswith("optimizer")}
        start = state.get("made_of", {}).get("content", {}).get("the student", {})
        return {"step": int(state["step"]), "trained": trained, "start": dict(start)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(
            f"the checkpoint '{checkpoint}' is damaged (state.json cannot be read): delete it, and the one "
            "before is taken."
        ) from None


def _teacher(teacher: Teacher, family: Family, run: Path, only: frozenset[str]) -> Contender:
    check_has_field(teacher)
    about = {key: getattr(teacher, key) for key in _OF_TEACHERS}
    identity = {"files": digests_of(family.files(teacher), run), "settings": about, **_precision(family)}
    return Contender(_plain(teacher.name), family, lambda: family.teacher(teacher), identity, only)


def _precision(family: Family) -> dict[str, Any]:
    """What else the same weights draw other images by."""
    return {key: str(getattr(family, key)) for key in ("dtype", "resolution") if hasattr(family, key)}


def _parts(text: str, teachers: Mapping[str, Teacher]) -> tuple[str, frozenset[str]]:
    name, colon, parts = text.rpartition(":")
    if text in teachers or Path(text).exists() or not colon:
        return text, frozenset()
    return name, frozenset(part for part in parts.split("+") if part)


def _label(folder: Path, folders: dict[Path, str], teachers: Iterable[str]) -> str:
    """What a run, or a former evaluation, is called beside teachers and the other ``folders``."""
    folder = folder.resolve()
    if folder not in folders:
        # By default, an evaluation lies in RUN/eval/BENCHMARK.
        of_run = folder.parent.name == "eval" and (folder / RECORD).is_file()
        label = _plain((folder.parent.parent if of_run else folder).name)
        taken = {STUDENT, BASE, *teachers, *folders.values()}
        names = (label, *(f"{label}-{number}" for number in range(2, len(taken) + 3)))
        folders[folder] = next(name for name in names if name not in taken)
    return folders[folder]


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip(".") or "other"


def _check_name(name: str) -> None:
    if not _PLAIN.fullmatch(name) or name == "report":
        raise ValueError(
            f"a contender's name must be letters, digits, '-', '_' and '.', and not 'report', but is "
            f"'{name}'."
        )
