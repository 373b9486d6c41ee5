"""Masks: what of an image an edit changes, brought to the cells of the latent like the image itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d

from danceopd.data import TensorCache, rows
from danceopd.families import Example, load_family
from danceopd.families.checkpoint import ModelCheckpoint
from danceopd.families.fitting import Fit, cell_shares, cover
from danceopd.families.pretrained import PretrainedFamily
from tests.families.parity import as_tensor, folder_of
from tests.families.tiny.calls import picture

torch.set_num_threads(1)

CELL = 16  # pixels of FLUX.2's
SIDES = st.integers(1, 70)


def new_family(kind: str = "flux2-klein") -> PretrainedFamily:
    family = load_family(folder_of(kind), resolution=64)
    assert isinstance(family, PretrainedFamily)
    return family


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    stream = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (height, width), generator=stream, dtype=torch.uint8)


@pytest.mark.parametrize("cells", [(1, 1), (2, 4), (4, 6), (32, 48)])
def test_where_cells_are_whole_pixels_they_are_averages(cells: tuple[int, int]) -> None:
    mask = noise(32, 48)
    shares = cell_shares(mask, cover(32, 48, (32, 48)), cells)
    wanted = avg_pool2d(mask[None].float() / 255, (32 // cells[0], 48 // cells[1]))
    assert shares.dtype == torch.float32 and shares.shape == (1, *cells)
    assert torch.allclose(shares, wanted, atol=1e-6)


def test_where_cells_are_parts_of_pixels_those_count_by_area() -> None:
    mask = torch.tensor([[255, 0, 255]], dtype=torch.uint8)
    shares = cell_shares(mask, cover(1, 3, (1, 3)), (1, 2))
    assert torch.allclose(shares, torch.tensor([[[2 / 3, 2 / 3]]]))
    assert cell_shares(mask, cover(1, 3, (2, 6)), (2, 6)).tolist() == [[[1, 1, 0, 0, 1, 1]] * 2]


@given(height=SIDES, width=SIDES, rows=SIDES, columns=SIDES, seed=st.integers(0, 9))
def test_shares_are_those_of_the_pixels_that_are_kept(
    height: int, width: int, rows: int, columns: int, seed: int
) -> None:
    fit, mask = cover(height, width, (rows, columns)), noise(height, width, seed)
    shares = cell_shares(mask, fit, (rows, columns))
    assert shares.min() >= 0 and shares.max() <= 1
    assert torch.equal(cell_shares(torch.full_like(mask, 255), fit, (rows, columns)), torch.ones_like(shares))
    # What is marked and what is not make up every cell, and larger cells are averages of smaller ones.
    assert torch.allclose(shares + cell_shares(255 - mask, fit, (rows, columns)), torch.ones(()), atol=1e-6)
    assert torch.allclose(cell_shares(mask, fit, (1, 1)), shares.mean(), atol=1e-5)


def test_a_mask_is_cropped_as_its_image_is() -> None:
    mask = torch.zeros(8, 24, dtype=torch.uint8)
    mask[:, 8:16] = 255
    assert (cell_shares(mask, cover(8, 24, (16, 16)), (2, 2)) == 1).all()
    assert (cell_shares(255 - mask, cover(8, 24, (16, 16)), (2, 2)) == 0).all()
    assert cell_shares(mask, Fit((8, 24), (8, 12)), (1, 6)).tolist() == [[[0, 1, 1, 1, 1, 0]]]


def write_rows(folder: Path) -> Path:
    """A target that is scaled up, a source alone, and a row without a mask."""
    for number, size in enumerate([(32, 48), (64, 64), (24, 24)]):
        picture(number, size).save(folder / f"{number}.png")
        marked = torch.zeros(size, dtype=torch.uint8)
        marked[: size[0] // 2] = 255
        Image.fromarray(marked.numpy()).save(folder / f"mask{number}.png")
    lines = ["a,1.png,2.png,mask2.png,32,48", "b,1.png,,mask1.png,,", "c,1.png,2.png,,,"]
    (folder / "rows.csv").write_text("\n".join(["prompt,source,target,mask,height,width", *lines]))
    return folder / "rows.csv"


def test_masks_of_rows_are_those_of_the_images_to_make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, family = write_rows(tmp_path), new_family()
    data = family.data(file)
    (prepared,) = family.prepare([data], tmp_path / "cache", masks=True)
    # Of the 24 x 24 pixels, scaled to 48 x 48, the rows from 8 to 40 are left: half of the first one's.
    assert prepared.mask([0]).tolist() == [[[[1, 1, 1], [0, 0, 0]]]]
    square = prepared.mask([1, 2, 1])
    assert square.shape == (3, 1, 4, 4) and square.dtype == torch.float32
    assert square[0, 0].tolist() == [[1] * 4] * 2 + [[0] * 4] * 2 and torch.equal(square[0], square[2])
    assert (square[1] == 1).all()

    def fail(*arguments: object) -> None:
        raise AssertionError("an image was decoded, an entry read, or the encoders were loaded")

    family = new_family()
    data = family.data(file)
    with monkeypatch.context() as patch:
        for owner, name in ((rows, "load_image"), (rows, "load_mask"), (ModelCheckpoint, "pipeline")):
            patch.setattr(owner, name, fail)
        patch.setattr(TensorCache, "get", fail)
        (again,) = family.prepare([data], tmp_path / "cache", masks=True)
    assert torch.equal(again.mask([1, 2]), prepared.mask([1, 2]))


def test_masks_must_be_asked_for(tmp_path: Path) -> None:
    (prepared,) = new_family().prepare([[Example("a")]], tmp_path)
    with pytest.raises(ValueError, match="masks were not asked for: prepare the rows with masks=True"):
        prepared.mask([0])
    (prepared,) = new_family().prepare([[Example("a")]], tmp_path, masks=True)
    assert torch.equal(prepared.mask([0]), torch.ones(1, 1, 4, 4))


def test_examples_in_memory_may_have_masks(tmp_path: Path) -> None:
    mask = torch.zeros(64, 64, dtype=torch.uint8)
    mask[:CELL, :CELL] = 255
    example = Example("a", (as_tensor(picture(1)),), mask=mask)
    (prepared,) = new_family().prepare([[example]], tmp_path, masks=True)
    assert prepared.mask([0]).sum() == prepared.mask([0])[0, 0, 0, 0] == 1


def test_in_the_miniature_world_an_edit_marks_what_it_changes(tmp_path: Path) -> None:
    family = load_family("shapesworld")
    edits, captions = family.data("edit"), family.data("t2i")
    prepared = family.prepare([edits, captions], tmp_path, masks=True)
    masks = prepared[0].mask(range(12))
    for row in range(12):
        example = edits[row]
        assert example.target is not None and example.mask is not None and example.mask.any()
        differs = (example.target != example.sources[0]).any(0)
        assert torch.equal(masks[row, 0].bool(), differs) and set(masks[row].unique().tolist()) <= {0.0, 1.0}
        if example.meta.category.startswith("subject"):
            assert 0 < masks[row].mean() <= 0.5
    assert torch.equal(prepared[1].mask([0, 5]), torch.ones(2, 1, 16, 16))
