"""Small copies of the public benchmarks, laid out as they are published."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image

GENEVAL = (
    {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"},
    {
        "tag": "counting",
        "include": [{"class": "cup", "count": 2}],
        "exclude": [{"class": "cup", "count": 3}],
        "prompt": "a photo of two cups",
    },
    {
        "tag": "position",
        "include": [{"class": "cup", "count": 1}, {"class": "dog", "count": 1, "position": ["left of", 0]}],
        "prompt": "a photo of a dog left of a cup",
    },
)
GEDIT = (
    ("color_alter", "en", "9a1f", "Make the cup red"),
    ("color_alter", "cn", "9a1f", "把杯子变成红色"),
    ("subject-add", "en", "77c0", "Add a dog"),
    ("subject-add", "cn", "77c0", "加一只狗"),
)
EMUEDIT = (
    (12, "add", "add a dog", "a street", "a street with a dog"),
    (7, "background", "move it to a beach", "a cup on a table", "a cup on a beach"),
    (7, "style", "make it a sketch", "a cup", "a sketch of a cup"),
)
IMGEDIT = {
    "1082": {"id": "animal/000342021.jpg", "prompt": "Make the shell smooth.", "edit_type": "alter"},
    "673": {"id": "daily object/000278574.jpg", "prompt": "Make it a woodcut.", "edit_type": "style"},
}
UGE = {"1": {"id": "000029784.jpg", "prompt": "Remove the lemon and turn the cup into a bowl."}}
EDITEVAL = (
    ("Object Addition", "Source Prompt", "Target Prompt", "Editing Instruction"),
    ("", "a street", "a street with a dog", "Add a dog."),
    ("", "a cup", "a cup and a spoon", "Add a spoon."),
    ("Object Removal", "a street with a dog", "a street", "Remove the dog & the lead."),
)
SIZE = (64, 64)


def picture(seed: int, size: tuple[int, int] = SIZE, kind: str = "PNG") -> bytes:
    """A smooth random image of (height, width), encoded."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC).save(file, kind)
    return file.getvalue()


def geneval(folder: Path) -> Path:
    """A clone of GenEval's repository."""
    lines = "".join(json.dumps(line) + "\n" for line in GENEVAL)
    return write(folder, {"prompts/evaluation_metadata.jsonl": lines.encode(), "README.md": b"GenEval\n"})


def gedit(folder: Path, kind: str = "parquet", size: tuple[int, int] = SIZE) -> Path:
    """GEdit-Bench's dataset, in two files, "parquet" or "arrow"."""
    rows = [
        {
            "task_type": task,
            "key": key,
            "instruction": instruction,
            "instruction_language": language,
            "input_image": {"bytes": picture(number, size), "path": None},
            "input_image_raw": {"bytes": picture(10 + number, size, "JPEG"), "path": "raw.jpg"},
            "Intersection_exist": language == "en",
        }
        for number, (task, language, key, instruction) in enumerate(GEDIT)
    ]
    if kind == "parquet":
        return shards(folder / "data", "train", [rows[:2], rows[2:]]).parent
    import datasets

    names = ("task_type", "key", "instruction", "instruction_language")
    images = {name: datasets.Image() for name in ("input_image", "input_image_raw")}
    features = {name: datasets.Value("string") for name in names} | images
    features["Intersection_exist"] = datasets.Value("bool")
    table = datasets.Dataset.from_list(rows, features=datasets.Features(features))
    table.save_to_disk(folder, num_shards=2)
    return folder


def emuedit(folder: Path, size: tuple[int, int] = SIZE) -> Path:
    """The Emu Edit test set's two splits."""
    rows = [
        {
            "instruction": instruction,
            "image": {"bytes": picture(number, size), "path": None},
            "task": task,
            "split": "test",
            "idx": idx,
            "hash": f"c0ffee{number}",
            "input_caption": before,
            "output_caption": after,
        }
        for number, (idx, task, instruction, before, after) in enumerate(EMUEDIT)
    ]
    shards(folder / "data", "test", [rows[:1], rows[1:]], "-628ebd70f33b38fe")
    return shards(folder / "data", "validation", [rows[:1]], "-640e25945b791daf").parent


def imgedit(folder: Path, size: tuple[int, int] = SIZE) -> Path:
    """ImgEdit-Bench's archive, unpacked, with the task files beside the images."""
    files = {"Benchmark/Basic/basic_edit.json": json.dumps(IMGEDIT).encode()}
    files["Benchmark/UGE/UGE_edit.json"] = json.dumps(UGE).encode()
    for suite, tasks in (("Basic", IMGEDIT), ("UGE", UGE)):
        for key, task in tasks.items():
            files[f"Benchmark/{suite}/{task['id']}"] = picture(int(key), size, "JPEG")
    return write(folder, files)


def editeval(folder: Path, size: tuple[int, int] = SIZE) -> Path:
    """EditEval_v1/Dataset of its authors' repository."""
    names = ("object_addition/1.jpg", "object_addition/2.jpeg", "object_removel/1.jpg")
    images = {name: picture(number, size, "JPEG") for number, name in enumerate(names)}
    return write(folder, images | {"editing_prompts_collection.xlsx": workbook(EDITEVAL)})


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def shards(folder: Path, split: str, parts: Sequence[list[dict[str, Any]]], tail: str = "") -> Path:
    """Parquet files as the hub names them."""
    import pyarrow
    from pyarrow import parquet

    folder.mkdir(parents=True, exist_ok=True)
    for number, rows in enumerate(parts):
        name = f"{split}-{number:05d}-of-{len(parts):05d}{tail}.parquet"
        parquet.write_table(pyarrow.Table.from_pylist(rows), folder / name)
    return folder


def workbook(rows: Iterable[Sequence[str]], *, shared: bool = True) -> bytes:
    """An .xlsx file whose first sheet has these texts; blank cells are left out, as Excel does."""
    main = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    texts: list[str] = []
    lines = []
    for line, row in enumerate(rows, start=1):
        cells = []
        for place, text in enumerate(row):
            if not text:
                continue
            name = f"{chr(ord('A') + place)}{line}"
            if shared:
                cells.append(f'<c r="{name}" t="s"><v>{len(texts)}</v></c>')
                texts.append(text)
            else:
                cells.append(f'<c r="{name}" t="inlineStr"><is><t>{escape(text)}</t></is></c>')
        if cells:
            lines.append(f'<row r="{line}">{"".join(cells)}</row>')
    # A text may be cut into runs of different looks.
    items = "".join(f"<si><r><t>{escape(t[:3])}</t></r><r><t>{escape(t[3:])}</t></r></si>" for t in texts)
    parts = {
        "xl/workbook.xml": f'<workbook {main} xmlns:r="{office}"><sheets>'
        '<sheet name="prompts" sheetId="1" r:id="rId7"/><sheet name="more" sheetId="2" r:id="rId8"/>'
        "</sheets></workbook>",
        "xl/_rels/workbook.xml.rels": "<Relationships>"
        '<Relationship Id="rId8" Target="worksheets/sheet1.xml"/>'
        '<Relationship Id="rId7" Target="worksheets/sheet2.xml"/></Relationships>',
        "xl/worksheets/sheet1.xml": f"<worksheet {main}><sheetData/></worksheet>",
        "xl/worksheets/sheet2.xml": f"<worksheet {main}><sheetData>{''.join(lines)}</sheetData></worksheet>",
        "xl/sharedStrings.xml": f"<sst {main}>{items}</sst>",
    }
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in parts.items():
            archive.writestr(name, text)
    return file.getvalue()
