"""Copies of the public benchmarks, what is wrong with them, and where their evaluators look for images."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest
import torch
from PIL import Image

from danceopd.data import DataError, load_image, read_sheet
from danceopd.evaluation import BENCHMARKS, Benchmark, Case, open_benchmark
from danceopd.evaluation.benchmarks import BenchmarkCopy, Fulfilled
from danceopd.evaluation.benchmarks.layout import inside
from danceopd.pictures import write_pngs
from tests.evaluation import copies

MAKERS: dict[str, Callable[[Path], Path]] = {
    "geneval": copies.geneval,
    "gedit": copies.gedit,
    "imgedit": copies.imgedit,
    "emuedit": copies.emuedit,
    "editeval": copies.editeval,
}
PUBLIC = tuple(MAKERS)


def layout(benchmark: Benchmark) -> list[str]:
    """All files that the evaluator is to find."""
    images = [
        benchmark.image_path(case, number)
        for case in benchmark.cases()
        for number in range(benchmark.images_per_case)
    ]
    return sorted(map(str, [*images, *benchmark.metadata()]))


def told(name: str, folder: Path, **options: object) -> str:
    with pytest.raises(ValueError) as error:
        open_benchmark(name, folder, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_geneval(tmp_path: Path) -> None:
    benchmark = open_benchmark("geneval", copies.geneval(tmp_path))
    assert layout(benchmark) == [
        f"{task:05d}/{file}"
        for task in range(3)
        for file in ("metadata.jsonl", *(f"samples/{number:04d}.png" for number in range(4)))
    ]
    for number, (case, line) in enumerate(zip(benchmark.cases(), copies.GENEVAL, strict=True)):
        assert (case.key, case.category, case.capability) == (f"{number:05d}", line["tag"], "t2i")
        assert (case.prompt, case.about, case.sources) == (line["prompt"], line, ())
        # Its evaluator reads the whole file as one object.
        assert json.loads(benchmark.metadata()[PurePosixPath(case.key, "metadata.jsonl")]) == line
    (tmp_path / "prompts" / "evaluation_metadata.jsonl").rename(tmp_path / "evaluation_metadata.jsonl")
    assert open_benchmark("geneval", tmp_path).fingerprint() == benchmark.fingerprint()


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_gedit(tmp_path: Path, kind: str) -> None:
    folder = copies.gedit(tmp_path, kind)
    benchmark = open_benchmark("gedit", folder)
    assert layout(benchmark) == [
        "fullset/color_alter/en/9a1f.png",
        "fullset/color_alter/en/9a1f_SRCIMG.png",
        "fullset/subject-add/en/77c0.png",
        "fullset/subject-add/en/77c0_SRCIMG.png",
    ]
    first = benchmark.cases()[0]
    assert (first.key, first.category, first.prompt) == (
        "color_alter.en.9a1f",
        "color_alter",
        "Make the cup red",
    )
    assert first.about == {
        "key": "9a1f",
        "task_type": "color_alter",
        "language": "en",
        "intersection_exist": True,
    }
    assert first.sources[0].read_bytes() == copies.picture(0)
    shown = benchmark.metadata()[PurePosixPath("fullset/color_alter/en/9a1f_SRCIMG.png")]
    assert shown == copies.picture(0)

    both = open_benchmark("gedit", folder, language="all", raw_sources=True)
    assert [case.category for case in both.cases()] == [
        f"{task} ({language})" for task, language, *_ in copies.GEDIT
    ]
    assert len(layout(both)) == 8 and "fullset/subject-add/cn/77c0_SRCIMG.png" in layout(both)
    raw = load_image(copies.picture(10, kind="JPEG"), Path(), "it").pixels
    shown = both.metadata()[PurePosixPath("fullset/color_alter/en/9a1f_SRCIMG.png")]
    assert shown.startswith(b"\x89PNG") and load_image(shown, Path(), "it").pixels.equal(raw)
    assert both.fingerprint() != benchmark.fingerprint()
    (chinese,) = {case.about["language"] for case in open_benchmark("gedit", folder, language="cn").cases()}
    assert chinese == "cn"


def test_emuedit(tmp_path: Path) -> None:
    benchmark = open_benchmark("emuedit", copies.emuedit(tmp_path))
    # The last two have one idx; nothing in the public copy says that this cannot be.
    assert layout(benchmark) == ["12.png", "7-c0ffee2.png", "7.png"]
    assert [(case.category, case.prompt) for case in benchmark.cases()] == [
        row[1:3] for row in copies.EMUEDIT
    ]
    about = benchmark.cases()[0].about
    assert (about["input_caption"], about["output_caption"]) == ("a street", "a street with a dog")
    assert [case.sources[0].read_bytes() for case in benchmark.cases()] == [
        copies.picture(n) for n in range(3)
    ]
    assert len(open_benchmark("emuedit", tmp_path, split="validation").cases()) == 1


@pytest.mark.parametrize("folder", ["Benchmark/Basic", "Benchmark/singleturn", "singleturn", "."])
def test_imgedit(tmp_path: Path, folder: str) -> None:
    copies.imgedit(tmp_path)
    tasks = (tmp_path / "Benchmark" / "Basic" / "basic_edit.json").rename(tmp_path / "basic_edit.json")
    if folder != "Benchmark/Basic":
        for inner in (tmp_path / "Benchmark" / "Basic").iterdir():
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            inner.rename(tmp_path / folder / inner.name)
    benchmark = open_benchmark("imgedit", tmp_path)
    assert layout(benchmark) == ["1082.png", "673.png"]
    assert [case.category for case in benchmark.cases()] == ["alter", "style"]
    assert [case.key for case in benchmark.cases()] == list(json.loads(tasks.read_bytes()))
    assert benchmark.cases()[1].sources == (tmp_path / folder / "daily object" / "000278574.jpg",)
    (hard,) = open_benchmark("imgedit", tmp_path, suite="uge").cases()
    assert (hard.key, hard.category, hard.sources[0].name) == ("1", "uge", "000029784.jpg")


def test_editeval(tmp_path: Path) -> None:
    benchmark = open_benchmark("editeval", copies.editeval(tmp_path))
    assert layout(benchmark) == ["object_addition/1.png", "object_addition/2.png", "object_removel/1.png"]
    last = benchmark.cases()[2]
    assert (last.category, last.prompt) == ("object_removel", "Remove the dog & the lead.")
    assert last.about == {"input_caption": "a street with a dog", "output_caption": "a street"}
    assert benchmark.cases()[1].sources == (tmp_path / "object_addition" / "2.jpeg",)

    # Other hands have given the first column a heading and filled it, or left a task's name on its own row.
    table = tmp_path / "editing_prompts_collection.xlsx"
    heading = ("Edit Class", *copies.EDITEVAL[0][1:])
    rows = [row[1:] for row in copies.EDITEVAL[1:]]
    names = ("object_addition", "object_addition", "object_removal")
    table.write_bytes(copies.workbook([heading, *((n, *row) for n, row in zip(names, rows, strict=True))]))
    assert open_benchmark("editeval", tmp_path).fingerprint() == benchmark.fingerprint()
    alone = [heading, ("Object Addition",), *copies.EDITEVAL[1:3], ("Object Removal",), ("", *rows[2])]
    table.write_bytes(copies.workbook(alone, shared=False))
    assert open_benchmark("editeval", tmp_path).fingerprint() == benchmark.fingerprint()
    # Without instructions the caption of what is wanted stands for it.
    table.write_bytes(copies.workbook([row[:3] for row in copies.EDITEVAL]))
    assert open_benchmark("editeval", tmp_path).cases()[0].prompt == "a street with a dog"


def test_shapesworld(tmp_path: Path) -> None:
    benchmark = open_benchmark("shapesworld", tmp_path / "new", prompts=2)
    assert len(benchmark.cases()) == 24
    assert layout(benchmark)[:2] == ["background-change/0000.png", "background-change/0001.png"]
    metric = Fulfilled()
    for case in benchmark.cases():
        assert (case.capability == "t2i") == (case.about["ground"] == "t2i") == (not case.sources)
        assert case.target is not None and metric.applies(case)
        assert metric.measure(case, case.target) == {"fulfilled": 1.0}
        if case.sources:
            assert metric.measure(case, case.sources[0]) == {"fulfilled": 0.0}
            assert case.mask is not None
            with Image.open(case.mask) as mask:
                assert mask.mode == "L"
    grey = write_pngs(torch.full((1, 3, 16, 16), 77, dtype=torch.uint8), tmp_path / "grey.png", zoom=1)[0]
    assert metric.measure(benchmark.cases()[0], grey) == {"fulfilled": 0.0}
    edits = open_benchmark("shapesworld", tmp_path / "new", prompts=2, grounds="edit")
    assert {case.key for case in edits.cases()} < {case.key for case in benchmark.cases()}
    assert not metric.applies(Case("a", "b", "t2i", "c"))


@pytest.mark.parametrize("name", PUBLIC)
def test_fingerprints_are_of_the_content(tmp_path: Path, name: str) -> None:
    folders = [MAKERS[name](tmp_path / folder) for folder in "ab"]
    one, other = (open_benchmark(name, folder) for folder in folders)
    assert one.fingerprint() == other.fingerprint() and len(one.fingerprint()) == 64
    assert one.name == name and set(BENCHMARKS) == {*PUBLIC, "shapesworld"}
    for case in one.cases()[:1]:
        for source in case.sources:
            source.write_bytes(copies.picture(99))
            # Images in tables are unpacked anew.
            same = open_benchmark(name, folders[0]).fingerprint() == other.fingerprint()
            assert same == (name in ("gedit", "emuedit"))


# -- copies that are not whole ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLIC)
def test_wrong_folders(tmp_path: Path, name: str) -> None:
    assert "not there" in told(name, tmp_path / "nowhere")
    (tmp_path / "file").touch()
    assert "is no folder" in told(name, tmp_path / "file")
    assert str(tmp_path) in told(name, tmp_path)


def test_lines_that_cannot_be_used(tmp_path: Path) -> None:
    copies.geneval(tmp_path)
    path = tmp_path / "prompts" / "evaluation_metadata.jsonl"
    whole = path.read_bytes()
    path.write_bytes(
        whole[:-30] + b'\n[1]\n{"tag": "x"}\n{"tag": "x", "prompt": "y", "include": [{"count": 1}]}'
    )
    text = told("geneval", tmp_path)
    assert "4 faults: line 3 of 'evaluation_metadata.jsonl' is no JSON; line 4" in text
    assert "is no JSON object" in text and "line 5" in text and "has no prompt" in text
    assert "line 6 of 'evaluation_metadata.jsonl' names an object without class or count" in text
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n")
    assert "'prompts/evaluation_metadata.jsonl' is a pointer of Git LFS" in told("geneval", tmp_path)
    path.write_bytes(b"\n")
    assert "has no line" in told("geneval", tmp_path)


@pytest.mark.parametrize(
    ("clause", "fault"),
    [
        ({"count": 0}, "has the count 0"),
        ({"count": True}, "has the count True"),
        ({"color": "mauve"}, "has the colour 'mauve' where one of red,"),
        ({"color": None}, "has the colour None"),
        ({"position": ["near", 0]}, "has the position ['near', 0]"),
        ({"position": ["above", 1]}, "has the position ['above', 1]"),
        ({"position": ["above", -1]}, "has the position ['above', -1]"),
        ({"position": ["above", False]}, "has the position ['above', False]"),
        ({"position": ["above"]}, "has the position ['above']"),
        ({"position": "above"}, "has the position 'above' where a pair belongs: left of, right of,"),
    ],
)
def test_what_genevals_checks_could_not_answer_is_told(
    tmp_path: Path, clause: dict[str, object], fault: str
) -> None:
    cup = {"class": "cup", "count": 1}
    line = {"tag": "x", "prompt": "y", "include": [cup, cup | {"position": ["left of", 0]} | clause]}
    (tmp_path / "evaluation_metadata.jsonl").write_text(json.dumps(line))
    assert f"line 1 of 'evaluation_metadata.jsonl' {fault}" in told("geneval", tmp_path)


def test_missing_and_damaged_files_of_a_dataset(tmp_path: Path) -> None:
    data = copies.emuedit(tmp_path) / "data"
    first, second = sorted(data.glob("test-*"))
    first.write_bytes(first.read_bytes()[:200])
    second.unlink()
    text = told("emuedit", tmp_path)
    assert "'data/test-00001-of-00002.parquet' is not there; " in text and f"'{first}' cannot be read" in text
    first.write_bytes(b"")
    assert f"'data/{first.name}' is empty" in told("emuedit", tmp_path)
    first.unlink()
    assert "holds no file of the split 'test'" in told("emuedit", tmp_path)

    copies.gedit(tmp_path / "gedit", "arrow")
    shard = tmp_path / "gedit" / "data-00001-of-00002.arrow"
    shard.write_bytes(shard.read_bytes()[:-400])
    assert "data-00001-of-00002.arrow' cannot be read as Arrow" in told("gedit", tmp_path / "gedit")
    shard.unlink()
    assert "'data-00001-of-00002.arrow' is not there" in told("gedit", tmp_path / "gedit")


def test_rows_that_cannot_be_used(tmp_path: Path) -> None:
    row = {"task": "add", "hash": "0", "idx": 1, "image": {"bytes": None, "path": None}, "instruction": None}
    there = row | {"image": {"bytes": None, "path": "1.png"}, "instruction": "add a dog", "idx": None}
    copies.shards(tmp_path, "test", [[row, there]])
    text = told("emuedit", tmp_path)
    for fault in ("row 1 of test-00000-of-00001.parquet has no instruction", "row 1 of", "has no image"):
        assert fault in text
    assert "'1.png' is not there; row 2 of test-00000-of-00001.parquet has no idx" in text
    copies.shards(tmp_path, "test", [[{"task": "add", "caption": "a dog"}]])
    text = told("emuedit", tmp_path)
    assert all(f"has no column '{name}'" in text for name in ("instruction", "hash", "image"))
    copies.shards(tmp_path / "again", "test", [[row]])
    assert "2 times" in told("emuedit", tmp_path)


def test_missing_images_are_named_and_counted(tmp_path: Path) -> None:
    copies.imgedit(tmp_path)
    path = tmp_path / "Benchmark" / "Basic" / "basic_edit.json"
    path.with_name("animal").joinpath("000342021.jpg").unlink()
    path.with_name("daily object").joinpath("000278574.jpg").write_bytes(b"")
    text = told("imgedit", tmp_path)
    assert "2 faults: 'Benchmark/Basic/animal/000342021.jpg' is not there; 'Benchmark/Basic/daily" in text
    many = {str(n): {"id": f"{n}.jpg", "prompt": "x", "edit_type": "add"} for n in range(25)}
    path.write_text(json.dumps(many))
    text = told("imgedit", tmp_path)
    assert "25 faults" in text and "19.jpg" in text and "20.jpg" not in text and "; and 5 more; copy" in text
    path.write_text(json.dumps({"1": {"id": "1.jpg"}}))
    assert "task '1' of 'basic_edit.json' has no prompt; task '1' of 'basic_edit.json' has no edit" in told(
        "imgedit", tmp_path
    )
    for content in ("{", "[]", "{}", '{"1": 2}'):
        path.write_text(content)
        assert "basic_edit.json' is no JSON" in told("imgedit", tmp_path)


def test_a_workbook_that_cannot_be_used(tmp_path: Path) -> None:
    copies.editeval(tmp_path)
    (tmp_path / "object_addition" / "2.jpeg").unlink()
    text = told("editeval", tmp_path)
    assert "'object_addition/2.jpg' (nor .jpeg or .png) is not there, of row 3 of 'editing_prompts" in text
    table = tmp_path / "editing_prompts_collection.xlsx"
    table.write_bytes(copies.workbook([*copies.EDITEVAL[:2], ("", "a cup", "", "Add a spoon.")]))
    assert "row 3 of 'editing_prompts_collection.xlsx' has no target" in told("editeval", tmp_path)
    table.write_bytes(copies.workbook([("", *copies.EDITEVAL[0][1:]), *copies.EDITEVAL[1:2]]))
    assert "belongs to none of object_addition, object_replacement" in told("editeval", tmp_path)
    table.write_bytes(copies.workbook(copies.EDITEVAL[1:]))
    assert "stands above a heading with 'Source Prompt' and 'Target Prompt'" in told("editeval", tmp_path)
    table.write_bytes(copies.workbook([]))
    assert "has no heading" in told("editeval", tmp_path)
    whole = copies.workbook(copies.EDITEVAL)
    for content in (b"PK", whole[:-100], whole.replace(b"sheet2.xml", b"sheet9.xml")):
        table.write_bytes(content)
        assert "is no Excel workbook that can be read (" in told("editeval", tmp_path)


def test_sheets_have_blank_rows_and_cells(tmp_path: Path) -> None:
    path = tmp_path / "x.xlsx"
    path.write_bytes(copies.workbook([("a", "", "c"), (), ("", "b")]))
    assert read_sheet(path) == [["a", "", "c"], [], ["", "b"]]
    with pytest.raises(DataError, match="No such file"):
        read_sheet(tmp_path / "y.xlsx")


def test_options(tmp_path: Path) -> None:
    copies.gedit(tmp_path)
    assert "'langage' is no option of the benchmark gedit: did you mean 'language'?" in told(
        "gedit", tmp_path, langage="en"
    )
    assert told("geneval", tmp_path, language="en").endswith("geneval: it has none.")
    assert "benchmark 'gedits' is unknown: did you mean 'gedit'?" in told("gedits", tmp_path)
    assert open_benchmark("evaledit", copies.editeval(tmp_path / "e")).name == "editeval"
    assert "language must be one of en, cn, all, but got 'fr'" in told("gedit", tmp_path, language="fr")
    assert "split must be 'test' or 'validation'" in told("emuedit", tmp_path, split="train")
    assert "multi-turn" in told("imgedit", tmp_path, suite="multiturn")
    images = tmp_path / "elsewhere"
    case = open_benchmark("gedit", tmp_path, unpack_to=images).cases()[0]
    assert case.sources[0].parent == images and not (tmp_path / "danceopd-images").exists()
    (tmp_path / "file").touch()
    assert "name another folder as unpack_to" in told("gedit", tmp_path, unpack_to=tmp_path / "file")


def test_unpacking_again_writes_nothing(tmp_path: Path) -> None:
    folder = copies.emuedit(tmp_path)
    sources = [case.sources[0] for case in open_benchmark("emuedit", folder).cases()]
    for source in sources:
        os.utime(source, (1, 1))
    assert [case.sources[0] for case in open_benchmark("emuedit", folder).cases()] == sources
    assert all(source.stat().st_mtime == 1 for source in sources)
    assert sorted((folder / "danceopd-images").iterdir()) == sorted(sources)
    # But one that has changed since is written anew.
    content = sources[0].read_bytes()
    sources[0].write_bytes(content[:-1])
    open_benchmark("emuedit", folder)
    assert sources[0].read_bytes() == content


def test_keys_and_paths_must_be_names() -> None:
    def benchmark(*keys: str, path: str = "{}.png") -> BenchmarkCopy:
        tasks = tuple(Case(key, "x", "t2i", "y") for key in keys)
        return BenchmarkCopy("mine", tasks, lambda case, number: PurePosixPath(path.format(case.key)))

    assert len(benchmark("a", "b-1.c").fingerprint()) == 64
    for key in ("a/b", "", "..", "a b"):
        with pytest.raises(DataError, match="cannot name the file"):
            benchmark(key)
    with pytest.raises(DataError, match="mine has no task"):
        benchmark()
    with pytest.raises(DataError, match="cannot name the file"):
        benchmark("a", path="../{}.png")
    with pytest.raises(DataError, match=r"would share the image 'x\.png'"):
        benchmark("a", "b", path="x.png")


def test_options_are_taken_as_texts_of_a_command_line_or_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"option 'raw_sources' must be true or false, but got 'no'"):
        open_benchmark("gedit", tmp_path, raw_sources="no")
    with pytest.raises(ValueError, match=r"option 'prompts' must be a whole number, but got 'abc'"):
        open_benchmark("shapesworld", tmp_path, prompts="abc")
    with pytest.raises(ValueError, match="ground '5' is unknown"):
        open_benchmark("shapesworld", tmp_path, grounds="5", prompts="1")
    with pytest.raises(ValueError, match="holds no file of the split"):  # the copy, not the option
        open_benchmark("gedit", tmp_path, unpack_to=str(tmp_path / "there"))


def test_a_file_outside_of_the_copy_is_refused(tmp_path: Path) -> None:
    assert inside(tmp_path, "a/b.png") == tmp_path / "a" / "b.png"
    for name in ("../secret.png", "/etc/passwd", "a/../../b"):
        with pytest.raises(ValueError, match="which lies outside of it"):
            inside(tmp_path, name)
