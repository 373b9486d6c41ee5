"""The files that the models of a pretrained family are read from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from danceopd.data import weight_files
from danceopd.families.checkpoint import ModelCheckpoint
from danceopd.families.config import StudentConfig, Teacher
from danceopd.families.lora_files import ADAPTER_CONFIG, find_lora
from danceopd.families.students import find_transformer, is_transformer

Files = dict[str, Path]


def files_of(
    checkpoint: ModelCheckpoint, model: Teacher | StudentConfig, teachers: Sequence[Teacher]
) -> Files:
    """See `danceopd.families.Family.files`.

    Args:
        checkpoint: the family's base. All of its components count for a student, whose conditions they make;
            for a teacher on the base the transformer alone.
        model: a teacher, or a student.
        teachers: whose names `model.init` may give.

    Raises:
        ValueError: a file is not there.
    """
    if isinstance(model, Teacher):
        base = [] if model.checkpoint is not None else ["transformer"]
        return _of_base(checkpoint, base) | _of_teacher(model)
    components = [name for name, kind in checkpoint.index.items() if isinstance(kind, list) and kind[0]]
    found = _of_base(checkpoint, components)
    known = {teacher.name: teacher for teacher in teachers}
    for number, name in enumerate([model.init] if isinstance(model.init, str) else model.init):
        if name == "base":  # whatever a teacher is called
            continue
        start = Teacher(name, checkpoint=name) if is_transformer(name) else Teacher(name, lora=name)
        own = _of_teacher(known.get(name, start))
        found |= {f"start {number}/{file}": path for file, path in own.items()}
    return found


def _of_base(checkpoint: ModelCheckpoint, components: Iterable[str]) -> Files:
    return {
        f"{component}/{name}": path
        for component in components
        for name, path in weight_files(checkpoint.folder / component).items()
    }


def _of_teacher(teacher: Teacher) -> Files:
    """Those beside the base's."""
    found: Files = {}
    if teacher.checkpoint is not None:
        place = find_transformer(teacher.checkpoint)
        found |= weight_files(place) if place.is_dir() else {place.name: place}
    if teacher.lora is not None:
        lora = find_lora(teacher.lora, teacher.weight_name)
        config = lora.with_name(ADAPTER_CONFIG)
        found |= {f"lora/{path.name}": path for path in (lora, config) if path.is_file()}
    return found
