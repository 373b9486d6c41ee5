"""Rows in Parquet files and in datasets of Hugging Face, whose images lie in the table."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from danceopd.data import DataError, check_rows, load_rows
from tests.data import pictures


def table(folder: Path) -> pa.Table:
    """Five rows: a path, then images in the table."""
    pictures.save(folder / "a.png")
    inside = [{"bytes": pictures.encoded(seed=seed), "path": None} for seed in range(4)]
    return pa.table(
        {
            "prompt": ["a", "b", "c", "d", "e"],
            "source": [{"bytes": None, "path": "a.png"}, *inside],
            "route": ["one", "two", "one", "two", "one"],
            "height": [64.0, None, 64.0, 64.0, float("nan")],
            "width": [32.0, None, 32.0, 32.0, None],
        }
    )


def test_other_rows_need_none_of_these_packages(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt\nx\n")
    code = (
        "import sys; from danceopd.data import check_rows, load_rows; check_rows(load_rows(sys.argv[1])); "
        "assert not {'pyarrow', 'datasets', 'pandas', 'diffusers'} & sys.modules.keys()"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(tmp_path / "a.csv")]
    outcome = subprocess.run(command, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr


class TestParquet:
    @pytest.mark.parametrize("group", [1, 2, 5])
    def test_images_are_read_from_the_row_they_are_in(self, tmp_path: Path, group: int) -> None:
        pyarrow.parquet.write_table(table(tmp_path), tmp_path / "rows.parquet", row_group_size=group)
        rows = load_rows(tmp_path / "rows.parquet")
        assert [rows.prompt(row) for row in range(5)] == ["a", "b", "c", "d", "e"]
        for row, seed in zip((4, 0, 2, 1, 3), (3, 0, 1, 0, 2), strict=True):
            assert np.array_equal(rows[row].sources[0].permute(1, 2, 0), pictures.pixels(seed=seed))
        assert [rows.size(row) for row in range(5)] == [(64, 32), None, (64, 32), (64, 32), None]
        check_rows(rows)

    def test_a_route_keeps_its_rows(self, tmp_path: Path) -> None:
        pyarrow.parquet.write_table(table(tmp_path), tmp_path / "rows.parquet", row_group_size=2)
        rows = load_rows(tmp_path / "rows.parquet", route="two")
        assert len(rows) == 2 and rows.describe(1) == "row 4 of rows.parquet"
        assert np.array_equal(rows[1].sources[0].permute(1, 2, 0), pictures.pixels(seed=2))

    def test_a_file_that_takes_its_place_is_read_anew(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.parquet"
        for seed in (1, 2):
            image = pictures.encoded(seed=seed)
            pyarrow.parquet.write_table(pa.table({"prompt": ["x"], "source": [image]}), tmp_path / "new")
            os.replace(tmp_path / "new", path)
            assert np.array_equal(load_rows(path)[0].sources[0].permute(1, 2, 0), pictures.pixels(seed=seed))

    def test_lists_of_paths_are_sources(self, tmp_path: Path) -> None:
        pictures.save(tmp_path / "a.png")
        rows = pa.table({"prompt": ["x", "y"], "source": [["a.png", "a.png"], None]})
        pyarrow.parquet.write_table(rows, tmp_path / "rows.parquet")
        assert [len(example.sources) for example in load_rows(tmp_path / "rows.parquet")] == [2, 0]

    def test_a_damaged_file_is_one_sentence(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.parquet"
        path.write_bytes(b"PAR1")
        with pytest.raises(
            DataError, match=r"'.*rows.parquet' cannot be read as Parquet \(.*\): write the file"
        ):
            load_rows(path)
        pyarrow.parquet.write_table(table(tmp_path), path)
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(DataError, match=r"cannot be read as Parquet"):
            load_rows(path)

    def test_a_file_damaged_in_the_middle_is_one_sentence_per_row(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.parquet"
        pyarrow.parquet.write_table(table(tmp_path), path, compression="zstd", row_group_size=1)
        rows = load_rows(path)
        about = pyarrow.parquet.ParquetFile(path).metadata.row_group(2).column(1)
        content = bytearray(path.read_bytes())
        start = about.dictionary_page_offset or about.data_page_offset
        content[start : start + about.total_compressed_size] = b"\xff" * about.total_compressed_size
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"cannot be read as Parquet"):
            rows[2]
        assert rows[3].prompt == "d"

    def test_without_pyarrow_it_says_what_to_install(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "rows.parquet").write_bytes(b"")
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(ImportError, match=r'not installed: pip install "danceopd\[data\]"') as error:
            load_rows(tmp_path / "rows.parquet")
        assert error.value.name is None  # or the command line would name the package alone


@pytest.fixture
def dataset(tmp_path: Path) -> datasets.Dataset:
    pictures.save(tmp_path / "a.png")
    encoded = [{"bytes": pictures.encoded(seed=seed), "path": None} for seed in range(3)]
    features = datasets.Features(
        {
            "prompt": datasets.Value("string"),
            "source": datasets.List(datasets.Image()),
            "target": datasets.Image(),
            "raw": datasets.Value("binary"),
            "path": datasets.Value("string"),
            "route": datasets.Value("string"),
        }
    )
    columns = {
        "prompt": ["a", "b", "c"],
        "source": [[], encoded[:1], encoded[1:]],
        "target": [*encoded[:2], None],
        "raw": [image["bytes"] for image in encoded],
        "path": ["a.png"] * 3,
        "route": ["one", "two", "one"],
    }
    return datasets.Dataset.from_dict(columns, features=features)


class TestDataset:
    def test_its_images_are_those_of_the_rows(self, dataset: datasets.Dataset) -> None:
        rows = load_rows(dataset)
        assert [len(example.sources) for example in rows] == [0, 1, 2]
        assert np.array_equal(rows[2].sources[1].permute(1, 2, 0), pictures.pixels(seed=2))
        target = rows[1].target
        assert target is not None and np.array_equal(target.permute(1, 2, 0), pictures.pixels(seed=1))
        assert rows[2].target is None
        assert rows.describe(2) == "row 3 of the dataset"
        assert rows.ignored == ("raw", "path")
        check_rows(rows)

    def test_images_may_be_bytes_or_paths(self, dataset: datasets.Dataset, tmp_path: Path) -> None:
        dataset = dataset.remove_columns(["source", "target"])
        rows = load_rows(dataset, columns={"source": "raw"}, route="two")
        assert np.array_equal(rows[0].sources[0].permute(1, 2, 0), pictures.pixels(seed=1))
        rows = load_rows(dataset, columns={"source": "path"}, root=tmp_path)
        assert np.array_equal(rows[2].sources[0].permute(1, 2, 0), pictures.pixels(seed=0))

    def test_a_prompt_decodes_no_image(self, tmp_path: Path) -> None:
        features = datasets.Features({"prompt": datasets.Value("string"), "source": datasets.Image()})
        broken = {"prompt": ["a", "b"], "source": [{"bytes": b"broken", "path": None}] * 2}
        rows = load_rows(datasets.Dataset.from_dict(broken, features=features))
        assert [rows.prompt(row) for row in range(2)] == ["a", "b"]
        with pytest.raises(DataError, match=r"the source of row 2 of the dataset cannot be read"):
            rows[1]
        with pytest.raises(
            DataError, match=r"row 1 of the dataset .*; 1 more row of the dataset cannot be used"
        ):
            check_rows(rows)

    def test_its_format_does_not_matter(self, dataset: datasets.Dataset) -> None:
        assert load_rows(dataset.with_format("numpy"))[1].sources[0].shape == (3, 6, 4)

    def test_it_may_be_saved(self, dataset: datasets.Dataset, tmp_path: Path) -> None:
        dataset.save_to_disk(str(tmp_path / "saved"))
        rows = load_rows(tmp_path / "saved", route="one")
        assert np.array_equal(rows[1].sources[1].permute(1, 2, 0), pictures.pixels(seed=2))
        assert rows.describe(1) == "row 3 of saved"

    def test_paths_in_a_saved_one_start_there(self, dataset: datasets.Dataset, tmp_path: Path) -> None:
        dataset.remove_columns(["source", "target"]).save_to_disk(str(tmp_path / "saved"))
        pictures.save(tmp_path / "saved/a.png", 2, 2)
        rows = load_rows(tmp_path / "saved", columns={"source": "path"})
        assert rows[0].sources[0].shape == (3, 2, 2)

    def test_one_split_is_meant_and_several_are_not(self, dataset: datasets.Dataset, tmp_path: Path) -> None:
        one = datasets.DatasetDict({"train": dataset})
        two = datasets.DatasetDict({"train": dataset, "test": dataset})
        one.save_to_disk(str(tmp_path / "one"))
        two.save_to_disk(str(tmp_path / "two"))
        assert len(load_rows(one)) == len(load_rows(tmp_path / "one")) == 3
        with pytest.raises(DataError, match=r"the dataset has the splits train, test: give one of them"):
            load_rows(two)
        with pytest.raises(
            DataError, match=r"holds 2 splits: give the folder of one, '.*two/train' or '.*test'"
        ):
            load_rows(tmp_path / "two")
        assert len(load_rows(tmp_path / "two/train")) == 3

    def test_a_streamed_one_is_one_sentence(self, dataset: datasets.Dataset) -> None:
        with pytest.raises(DataError, match=r"is streamed, but rows are read in any order"):
            load_rows(dataset.to_iterable_dataset())

    def test_a_damaged_one_is_one_sentence(self, dataset: datasets.Dataset, tmp_path: Path) -> None:
        dataset.save_to_disk(str(tmp_path / "saved"))
        for arrow in (tmp_path / "saved").glob("*.arrow"):
            arrow.write_bytes(arrow.read_bytes()[:100])
        with pytest.raises(DataError, match=r"cannot be read as a saved dataset") as error:
            load_rows(tmp_path / "saved")
        assert "\n" not in str(error.value)

    def test_without_datasets_it_says_what_to_install(
        self, dataset: datasets.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dataset.save_to_disk(str(tmp_path / "saved"))
        monkeypatch.setitem(sys.modules, "datasets", None)
        with pytest.raises(ImportError, match=r'not installed: pip install "danceopd\[data\]"'):
            load_rows(tmp_path / "saved")

    def test_what_acts_like_one_will_do(self) -> None:
        class Two:
            column_names = ("prompt", "source")

            def __len__(self) -> int:
                return 2

            def with_format(self, kind: None) -> Two:
                return self

            def select_columns(self, names: list[str]) -> Two:
                return self

            def __getitem__(self, row: int | slice) -> dict[str, object]:
                image = Image.fromarray(pictures.pixels())
                columns = {"prompt": ["a", "b"], "source": [image, image]}
                return {name: cells[row] for name, cells in columns.items()}

        assert np.array_equal(load_rows(Two())[1].sources[0].permute(1, 2, 0), pictures.pixels())
