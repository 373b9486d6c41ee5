from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from danceopd.data import DataError, Rows, check_rows, load_rows
from tests.data import pictures


def csv(folder: Path, text: str, name: str = "prompts.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def jsonl(folder: Path, *records: Any) -> Path:
    path = folder / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return path


def as_array(image: Tensor | None) -> np.ndarray:
    assert image is not None and image.dtype == torch.uint8
    return image.permute(1, 2, 0).numpy()


def prompts(rows: Rows) -> list[str]:
    return [rows.prompt(row) for row in range(len(rows))]


def test_a_csv_of_prompts(tmp_path: Path) -> None:
    rows = load_rows(csv(tmp_path, 'prompt\na cat\n\n"two, or ""three""\nlines"\nein Käfer\n'))
    assert prompts(rows) == ["a cat", 'two, or "three"\nlines', "ein Käfer"]
    assert rows[0].prompt == "a cat"
    assert (rows[0].sources, rows[0].target, rows[0].size) == ((), None, None)
    assert [example.prompt for example in rows] == prompts(rows)  # it ends by itself
    assert [rows.describe(row) for row in range(3)] == [
        "row 1 of prompts.csv (line 2)",
        "row 2 of prompts.csv (line 4)",
        "row 3 of prompts.csv (line 6)",
    ]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    (tmp_path / "prompts.csv").write_bytes("\ufeffprompt\r\nein Käfer\r\n".encode())
    assert prompts(load_rows(str(tmp_path / "prompts.csv"))) == ["ein Käfer"]


def test_spaces_after_commas_and_columns_without_a_name_do_not_matter(tmp_path: Path) -> None:
    rows = load_rows(csv(tmp_path, ', prompt, id\n0, "a, b", 7\n'))
    assert prompts(rows) == ["a, b"]
    assert rows.ignored == ("id",)


def test_images_lie_beside_the_file_that_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = pictures.save(tmp_path / "data/in/a.png", 6, 4, 1)
    after = pictures.save(tmp_path / "data/out/a.png", 8, 2, 2)
    csv(tmp_path / "data", "prompt,source,target,height,width\nmake it red, in/a.png, out/a.png,64, 32\n")
    (example,) = load_rows("data/prompts.csv")
    assert np.array_equal(as_array(example.sources[0]), before)
    assert np.array_equal(as_array(example.target), after)
    assert example.size == (64, 32)


def test_a_root_takes_the_place_of_the_files_folder(tmp_path: Path) -> None:
    image = pictures.save(tmp_path / "images/a.png")
    rows = load_rows(csv(tmp_path, "prompt,source\nx,a.png\n"), root=tmp_path / "images")
    assert np.array_equal(as_array(rows[0].sources[0]), image)


def test_sources_may_be_a_list_or_columns(tmp_path: Path) -> None:
    images = [pictures.save(tmp_path / f"{seed}.png", seed=seed) for seed in range(3)]
    names = ["0.png", "1.png", "2.png"]
    quoted = json.dumps(names).replace('"', '""')
    specs = {
        "json.csv": f'prompt,source\nx,"{quoted}"\n',
        "columns.csv": "source_3,prompt,source_2,source\n2.png,x,1.png,0.png\n",
    }
    tables = [csv(tmp_path, text, name) for name, text in specs.items()]
    for path in [*tables, jsonl(tmp_path, {"prompt": "x", "source": names})]:
        sources = load_rows(path)[0].sources
        assert [as_array(source).tolist() for source in sources] == [image.tolist() for image in images]


def test_rows_with_and_without_sources_may_mix(tmp_path: Path) -> None:
    pictures.save(tmp_path / "a.png")
    text = "prompt,source,source_2,target\nx,,,\ny,a.png,,a.png\nz,a.png,a.png, \n"
    rows = load_rows(csv(tmp_path, text))
    assert [len(example.sources) for example in rows] == [0, 1, 2]
    assert [example.target is None for example in rows] == [True, False, True]
    rows = load_rows(
        jsonl(tmp_path, {"prompt": "x", "source": []}, {"prompt": "y"}, {"prompt": "z", "source": None})
    )
    assert [example.sources for example in rows] == [(), (), ()]


def test_a_gap_between_sources_is_an_error(tmp_path: Path) -> None:
    pictures.save(tmp_path / "a.png")
    rows = load_rows(csv(tmp_path, "prompt,source,source_2\nx,,a.png\n"))
    with pytest.raises(DataError, match=r"source 1 of row 1 of prompts.csv \(line 2\) is empty but a later"):
        rows[0]


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    pictures.save(tmp_path / "a.png", 6, 4)
    pictures.save(tmp_path / "b.png", 8, 2)
    path = csv(tmp_path, "caption,source,target\nx,a.png,b.png\n")
    rows = load_rows(path, columns={"prompt": "caption"})
    assert rows.columns == {"prompt": "caption", "source": "source", "target": "target"}
    # The other way round: a column that is named for one thing is not another too.
    rows = load_rows(path, columns={"prompt": "caption", "source": "target"})
    assert rows[0].sources[0].shape == (3, 8, 2) and rows[0].target is None


def test_a_route_takes_its_own_rows(tmp_path: Path) -> None:
    path = csv(tmp_path, "prompt,route\na,one\nb,two\nc,one\n")
    rows = load_rows(path, route="one")
    assert prompts(rows) == ["a", "c"]
    assert rows.describe(1) == rows.describe(-1) == "row 3 of prompts.csv (line 4)"
    assert len(load_rows(path)) == 3
    with pytest.raises(DataError, match=r"no row of prompts.csv has the route 'tow': did you mean 'two'\?"):
        load_rows(path, route="tow")
    with pytest.raises(IndexError):
        rows[2]


def test_rows_without_a_route_column_are_for_every_route(tmp_path: Path) -> None:
    assert prompts(load_rows(csv(tmp_path, "prompt\na\n"), route="any")) == ["a"]


@pytest.mark.parametrize("size", [("64", "32"), (64, 32), (64.0, "32.0")])
def test_sizes_are_pixels(tmp_path: Path, size: tuple[Any, Any]) -> None:
    path = jsonl(tmp_path, {"prompt": "x", "height": size[0], "width": size[1]}, {"prompt": "y"})
    rows = load_rows(path)
    assert rows.size(0) == (64, 32) and rows.size(1) is None
    assert all(type(side) is int for side in rows.size(0) or ())


@pytest.mark.parametrize("height", ["0", "-8", "12.5", "tall", "1e9", "inf", True, [8]])
def test_what_is_no_size_is_one_sentence(tmp_path: Path, height: object) -> None:
    rows = load_rows(jsonl(tmp_path, {"prompt": "x", "height": height, "width": 8}))
    with pytest.raises(DataError, match=r"the height of row 1 of prompts.jsonl \(line 1\) must be a whole"):
        rows[0]


def test_a_size_has_two_sides(tmp_path: Path) -> None:
    rows = load_rows(csv(tmp_path, "prompt,height,width\nx,8,\n"))
    with pytest.raises(DataError, match=r"has only one of height and width: give both, or none"):
        rows[0]
    with pytest.raises(DataError, match=r"only one of the columns height and width"):
        load_rows(csv(tmp_path, "prompt,height\nx,8\n"))


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("  ", "is empty: write one, or remove the row"),
        (None, "is empty"),
        (5, "must be a text, got 5: quote it"),
        ("half \ud83d", "lone surrogate"),
    ],
)
def test_what_is_no_prompt_is_one_sentence(tmp_path: Path, prompt: object, words: str) -> None:
    rows = load_rows(jsonl(tmp_path, {"prompt": "fine"}, {"prompt": prompt}))
    with pytest.raises(DataError, match=rf"the prompt of row 2 of prompts.jsonl \(line 2\).*{words}"):
        rows[1]


def test_json_lines_may_hold_other_line_ends_in_texts(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"prompt": "one\u2028line\x85"}\r\n\r\n{"prompt": "b"}\n', encoding="utf-8"
    )
    rows = load_rows(tmp_path / "a.jsonl")
    assert prompts(rows) == ["one\u2028line\x85", "b"]
    assert rows.describe(1) == "row 2 of a.jsonl (line 3)"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "", "a.csv has no rows: give it at least one"),
        ("a.csv", "prompt\n", "a.csv has no rows"),
        ("a.csv", "\n\n", "a.csv has no rows"),
        ("a.jsonl", "\n", "a.jsonl has no rows"),
        ("a.csv", "promt,id\nx,1\n", "a.csv has no column 'prompt' .*: did you mean 'promt'?"),
        ("a.csv", "a,b\nx,1\n", "a.csv has no column 'prompt' .*: known are a, b."),
        ("a.csv", "prompt;source\nx;1\n", "no column 'prompt' .*'?prompt;source'?"),
        ("a.csv", "prompt,soruce\nx,1\n", "has a column 'soruce' but no 'source': rename it to 'source'"),
        ("a.csv", "prompt,Sources\nx,1\n", "has a column 'Sources' but no 'source'"),
        ("a.csv", "prompt,source_2\nx,1\n", "has the column source_2 but not all before it"),
        ("a.csv", "prompt,source,source_3\nx,1,2\n", "has the column source_3 but not all before it"),
        ("a.csv", "prompt,prompt\nx,1\n", "has 2 columns 'prompt': rename all but one"),
        (
            "a.csv",
            "prompt,id\nx,1\na cat, red,2\n",
            "line 3 of '.*a.csv' has 3 fields but the header names 2",
        ),
        ("a.csv", "prompt,id\nx\n", "line 2 of '.*a.csv' has 1 fields but the header names 2"),
        ("a.csv", 'prompt,id\nx,1\n"open,2\ny,3\n', "line 3 of '.*a.csv' cannot be read as CSV"),
        ("a.csv", 'prompt\n"a" cat\n', "line 2 of '.*a.csv' cannot be read as CSV"),
        ("a.csv", "prompt\n" + "x" * 200_000, "line 2 of '.*a.csv' cannot be read as CSV .field larger"),
        ("a.jsonl", '{"prompt": "x"}\n\n["y"]\n', "line 3 of '.*a.jsonl' is a list and no JSON object"),
        ("a.jsonl", '{"prompt": "x"}\n{"prompt": \n', "line 2 of '.*a.jsonl' is no JSON"),
        ("a.jsonl", "[" * 100_000, "line 1 of '.*a.jsonl' is no JSON"),
        ("a.jsonl", '{"id": 1}\n', "a.jsonl has no column 'prompt'"),
        ("a.xlsx", "", "'.*a.xlsx' are of no known kind: give .csv, .jsonl or .parquet"),
        ("a", "", "of no known kind"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_sentence(
    tmp_path: Path, name: str, content: str, words: str
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=words) as error:
        load_rows(tmp_path / name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_file_that_is_not_utf8_is_one_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes("prompt\nKäfer\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"is not UTF-8 \(byte 9\): save it as UTF-8"):
        load_rows(tmp_path / name)


def test_columns_that_name_alike_but_mean_else_may_stay(tmp_path: Path) -> None:
    rows = load_rows(csv(tmp_path, "prompt,weight,source_id,resource,target_id,routing\nx,1,2,3,4,5\n"))
    assert len(rows.ignored) == 5


@pytest.mark.parametrize("name", ["image", "input_image", "Image_Path"])
def test_an_image_column_is_not_taken_for_nothing(tmp_path: Path, name: str) -> None:
    """An edit would become text-to-image without a word."""
    path = csv(tmp_path, f"prompt,{name}\nmake it snow,house.png\n")
    with pytest.raises(
        DataError, match=f"has a column '{name}' but no 'source': say columns=.'source': '{name}'"
    ):
        load_rows(path)
    assert load_rows(path, columns={"source": name}).columns["source"] == name
    assert load_rows(path, columns={"target": name}).columns["target"] == name


@pytest.mark.parametrize("spec", ["missing.csv", "someone/dataset", "", 5, None])
def test_a_spec_that_is_nothing_is_one_sentence(spec: object) -> None:
    with pytest.raises(DataError, match=r"give .*\.csv, \.jsonl or \.parquet"):
        load_rows(spec)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"promt": "a"}, "columns has the unknown key 'promt': did you mean 'prompt'?"),
        ({"source_1": "a"}, "columns has the unknown key 'source_1'"),
        (
            {"prompt": "captoin"},
            "no column 'captoin', which columns names for prompt: did you mean 'caption'?",
        ),
    ],
)
def test_columns_must_be_known_on_both_sides(tmp_path: Path, columns: dict[str, str], words: str) -> None:
    with pytest.raises(DataError, match=words):
        load_rows(csv(tmp_path, "caption,a\nx,1\n"), columns=columns)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("no.png", r"the source of row 1 of prompts.jsonl \(line 1\) \('no.png'\) is no file at '.*no.png'"),
        (["a.png", "no.png"], r"source 2 of row 1 of prompts.jsonl \(line 1\) \('no.png'\) is no file"),
        (["a.png", ""], "source 2 of row 1 .* is empty"),
        ("[a.png]", r"is no JSON list: write \[\"one.png\""),
        ("https://a.b/c.png", "is an address, but images are read from disk: download it first"),
        (".", "is no file"),
        ("x" * 300, "File name too long"),
        ("nul\0.png", "is no file|null"),
        ("two\nlines.png", r"'two\\nlines.png'\) is no file"),
        (5, "is a int, which is no image"),
    ],
)
def test_a_source_that_cannot_be_used_names_its_row(tmp_path: Path, source: object, words: str) -> None:
    pictures.save(tmp_path / "a.png")
    rows = load_rows(jsonl(tmp_path, {"prompt": "x", "source": source}))
    with pytest.raises(DataError, match=words):
        rows[0]


class TestImageFolder:
    def folder(self, tmp_path: Path, text: str, name: str = "metadata.csv") -> Path:
        pictures.save(tmp_path / "cats/a.png", 6, 4)
        pictures.save(tmp_path / "cats/b.png", 8, 2)
        csv(tmp_path / "cats", text, name)
        return tmp_path / "cats"

    def test_its_images_are_targets(self, tmp_path: Path) -> None:
        rows = load_rows(self.folder(tmp_path, "file_name,prompt\na.png,x\n"))
        assert rows[0].target is not None and rows[0].target.shape == (3, 6, 4)
        assert rows[0].sources == ()
        assert rows.describe(0) == "row 1 of cats/metadata.csv (line 2)"

    def test_they_are_sources_when_columns_say_so(self, tmp_path: Path) -> None:
        folder = self.folder(tmp_path, '{"file_name": "a.png", "text": "x"}\n', "metadata.jsonl")
        rows = load_rows(folder, columns={"source": "file_name", "prompt": "text"})
        assert rows[0].sources[0].shape == (3, 6, 4) and rows[0].target is None

    @pytest.mark.parametrize(
        "header", ["source,file_name,prompt", "source_file_name,target_file_name,prompt"]
    )
    def test_it_may_hold_pairs(self, tmp_path: Path, header: str) -> None:
        example = load_rows(self.folder(tmp_path, f"{header}\na.png,b.png,x\n"))[0]
        assert example.target is not None
        assert (example.sources[0].shape, example.target.shape) == ((3, 6, 4), (3, 8, 2))

    def test_it_may_hold_lists(self, tmp_path: Path) -> None:
        text = '{"source_file_names": ["a.png", "b.png"], "prompt": "x"}'
        rows = load_rows(self.folder(tmp_path, text, "metadata.jsonl"))
        assert [tuple(source.shape) for source in rows[0].sources] == [(3, 6, 4), (3, 8, 2)]

    def test_a_pair_whose_sides_are_open_is_one_sentence(self, tmp_path: Path) -> None:
        folder = self.folder(tmp_path, "file_name,target,prompt\na.png,b.png,x\n")
        with pytest.raises(DataError, match=r"both file_name and target but no source: say columns"):
            load_rows(folder)
        example = load_rows(folder, columns={"source": "file_name"})[0]
        assert example.target is not None
        assert (example.sources[0].shape, example.target.shape) == ((3, 6, 4), (3, 8, 2))

    def test_its_metadata_must_be_there_once(self, tmp_path: Path) -> None:
        with pytest.raises(
            DataError, match=r"holds no metadata.csv, metadata.jsonl or metadata.parquet: write a"
        ):
            load_rows(tmp_path)
        folder = self.folder(tmp_path, "file_name,prompt\na.png,x\n")
        with pytest.raises(DataError, match=r"did you mean '.*cats'\?"):
            load_rows(tmp_path)
        (folder / "metadata.jsonl").write_text("{}")
        with pytest.raises(DataError, match=r"holds metadata.csv and metadata.jsonl: leave one of them"):
            load_rows(folder)


def test_a_mask_is_of_the_target_or_of_the_source(tmp_path: Path) -> None:
    for name, size in (("a", (6, 4)), ("b", (8, 2)), ("c", (5, 5))):
        pictures.save(tmp_path / f"{name}.png", *size)
        Image.fromarray(pictures.pixels(*size)[..., 0]).save(tmp_path / f"mask_{name}.png")
    lines = [
        "x,a.png,b.png,mask_b.png",
        "x,a.png,b.png,mask_a.png",
        "x,a.png,,mask_a.png",
        "x,,b.png,mask_b.png",
    ]
    rows = load_rows(csv(tmp_path, "\n".join(["prompt,source,target,mask", *lines, "x,a.png,b.png,"])))
    masks = [example.mask for example in rows]
    assert [None if mask is None else tuple(mask.shape) for mask in masks] == [
        (8, 2),
        (6, 4),
        (6, 4),
        (8, 2),
        None,
    ]
    assert masks[1] is not None and np.array_equal(masks[1], pictures.pixels(6, 4)[..., 0])
    assert rows.content(1).mask != rows.content(0).mask
    wrong = {
        "x,a.png,b.png,mask_c.png": r"has 5 x 5 pixels but must have those of .* \(8 x 2 and 6 x 4\)",
        "x,,,mask_c.png": r"has 5 x 5 pixels but must .* \(it has none\)",
        "x,a.png,,nowhere.png": r"\('nowhere.png'\) is no file at",
    }
    for line, words in wrong.items():
        rows = load_rows(csv(tmp_path, f"prompt,source,target,mask\n{line}\n"))
        with pytest.raises(DataError, match=rf"^the mask of row 1 of prompts.csv \(line 2\) {words}"):
            check_rows(rows)


def test_an_image_folder_may_name_masks(tmp_path: Path) -> None:
    pictures.save(tmp_path / "a.png")
    Image.new("L", (4, 6), 255).save(tmp_path / "b.png")
    csv(tmp_path, "prompt,source_file_name,mask_file_name\nx,a.png,b.png\n", "metadata.csv")
    (example,) = load_rows(tmp_path)
    assert example.mask is not None and example.mask.tolist() == [[255] * 4] * 6
