"""Metrics say what they promise: of equal, changed, odd and broken images."""

from __future__ import annotations

import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from danceopd.data import load_image
from danceopd.evaluation import Case
from danceopd.evaluation.choice import choose_metrics
from danceopd.evaluation.metrics import (
    ClipDirection,
    ClipFeatures,
    ClipImage,
    ClipText,
    DinoFeatures,
    DinoImage,
    Lpips,
    PixelDistance,
    Sharpness,
    local_metrics,
    measure_diversity,
)
from danceopd.evaluation.metrics.pixels import HIGHEST_PSNR
from tests.evaluation.examples import BLUE, RED, caption, edit, noise, save
from tests.evaluation.models import clip_folder, dino_folder, dinov2_folder, lpips_folder
from tests.evaluation.test_geneval_checks import Stub

BEFORE_AFTER = {"input_caption": "a blue square", "output_caption": "a red circle"}


@pytest.fixture(scope="module")
def clip() -> ClipFeatures:
    return ClipFeatures(clip_folder())


def masked(tmp_path: Path) -> tuple[Case, Path]:
    """An edit that changed its left half alone, where its mask is white."""
    before = noise(0)
    after, white = before.copy(), np.zeros_like(before)
    after[:, :32], white[:, :32] = noise(1)[:, :32], 255
    case = edit("0", save(tmp_path / "s.png", before), mask=save(tmp_path / "m.png", white))
    return case, save(tmp_path / "e.png", after)


# -- pixels -------------------------------------------------------------------------------------------------


def test_outside_the_mask_only_the_outside_counts(tmp_path: Path) -> None:
    case, image = masked(tmp_path)
    lpips = Lpips(lpips_folder(tmp_path))
    outside = PixelDistance("outside", lpips).measure(case, image)
    assert outside["outside_l1"] == 0 and outside["outside_psnr"] == HIGHEST_PSNR
    assert outside["outside_lpips"] == 0
    assert outside["outside_ssim"] > 0.9, "windows at the border reach into the edit"
    everywhere = PixelDistance("all", lpips).measure(case, image)
    assert everywhere["source_l1"] > 0.1 and everywhere["source_psnr"] < 20
    assert everywhere["source_ssim"] < 0.6 and everywhere["source_lpips"] > 0


def test_pixel_distances_are_the_defined_ones(tmp_path: Path) -> None:
    before = np.full((16, 16, 3), 100, np.uint8)
    after = before.copy()
    after[..., 0] = 151
    case = edit("0", save(tmp_path / "s.png", before))
    values = PixelDistance("all").measure(case, save(tmp_path / "e.png", after))
    assert values["source_l1"] == pytest.approx(51 / 255 / 3)
    assert values["source_psnr"] == pytest.approx(10 * math.log10(255**2 / (51**2 / 3)))
    first = (2 * 100 * 151 + 6.5025) / (100**2 + 151**2 + 6.5025)  # flat images differ in luminance alone
    assert values["source_ssim"] == pytest.approx((first + 2) / 3)


def test_a_region_applies_only_where_the_benchmark_has_a_mask(tmp_path: Path) -> None:
    source = save(tmp_path / "s.png", noise(0))
    assert not PixelDistance("outside").applies(edit("0", source))
    assert PixelDistance("outside").applies(edit("0", source, mask=source))
    white = save(tmp_path / "m.png", np.full((48, 64, 3), 255))
    assert not PixelDistance("outside").applies(edit("0", source, mask=white)), "nothing is outside of it"
    assert PixelDistance("outside").applies(edit("0", source, mask=tmp_path / "none.png")), "to be told"
    assert PixelDistance("all").applies(edit("0", source))
    assert not PixelDistance("all").applies(caption("0"))


def test_a_source_of_another_size_is_brought_to_that_of_the_image(tmp_path: Path) -> None:
    large = Image.fromarray(noise(0, 24, 32)).resize((320, 240), Image.Resampling.BICUBIC)
    large.save(tmp_path / "s.png")
    white = np.zeros((240, 320, 3))
    white[:, :100] = 255
    case = edit("0", tmp_path / "s.png", mask=save(tmp_path / "m.png", white))
    large.resize((64, 48), Image.Resampling.BICUBIC).save(tmp_path / "e.png")
    assert PixelDistance("outside").measure(case, tmp_path / "e.png")["outside_l1"] == 0
    with pytest.raises(ValueError, match=r"64x64 and its source 320x240: pixels compare only"):
        PixelDistance("all").measure(case, save(tmp_path / "square.png", noise(0, 64, 64)))


def test_a_source_is_seen_as_models_see_it(tmp_path: Path) -> None:
    pixels = np.concatenate([noise(0), np.zeros((48, 64, 1), np.uint8)], axis=2)
    pixels[:24, :, 3] = 255
    case = edit("0", save(tmp_path / "s.png", pixels))
    shown = load_image(case.sources[0], Path(), "source").pixels.permute(1, 2, 0).numpy()
    assert PixelDistance("all").measure(case, save(tmp_path / "e.png", shown))["source_l1"] == 0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.png", None, "cannot be read .No such file"),
        ("text.png", b"not an image", "is not an image"),
        ("cut.png", b"cut", "cannot be decoded"),
    ],
)
def test_an_unreadable_image_is_told_in_one_sentence(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    source = save(tmp_path / "s.png", noise(0))
    if content is not None:
        (tmp_path / name).write_bytes(source.read_bytes()[:2000] if content == b"cut" else content)
    with pytest.raises(ValueError, match=message) as caught:
        PixelDistance("all").measure(edit("0", source), tmp_path / name)
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_images_too_small_for_a_window_and_masks_without_outside_are_refused(tmp_path: Path) -> None:
    small = save(tmp_path / "s.png", noise(0, 8, 8))
    with pytest.raises(ValueError, match="at least 11 pixels a side but got 8x8"):
        PixelDistance("all").measure(edit("0", small), small)
    white = save(tmp_path / "m.png", np.full((8, 8, 3), 255))
    with pytest.raises(ValueError, match="nothing lies outside"):
        PixelDistance("outside").measure(edit("0", small, mask=white), small)
    with pytest.raises(ValueError, match="at least 32 pixels a side but got 16x16"):
        Lpips(lpips_folder(tmp_path))(noise(0, 16, 16), noise(1, 16, 16))


def test_without_the_extra_one_sentence_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = save(tmp_path / "s.png", noise(0))
    monkeypatch.setitem(sys.modules, "skimage.metrics", None)
    monkeypatch.setitem(sys.modules, "scipy.ndimage", None)
    with pytest.raises(ImportError, match=r"comparing pixels needs the package .*danceopd\[eval\]"):
        PixelDistance("all").measure(edit("0", image), image)
    with pytest.raises(ImportError, match="measuring sharpness needs the package"):
        Sharpness().measure(caption("0"), image)


# -- LPIPS --------------------------------------------------------------------------------------------------


def test_lpips_is_symmetric_and_zero_for_equal_images(tmp_path: Path) -> None:
    lpips = Lpips(lpips_folder(tmp_path))
    one, other = noise(0), noise(1)
    assert lpips(one, one) == 0
    assert lpips(one, other) == pytest.approx(lpips(other, one)) and lpips(one, other) > 0


def test_lpips_names_what_is_wrong_with_its_weights(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs the file '.*alexnet-owt-7be5be79.pth', .* copy it there"):
        Lpips(tmp_path)
    lpips_folder(tmp_path)
    weights = torch.load(tmp_path / "alex.pth", weights_only=True)
    torch.save(weights | {"lin0.model.1.weight": torch.ones(1, 128, 1, 1)}, tmp_path / "alex.pth")
    with pytest.raises(ValueError, match="take the weights for AlexNet"):
        Lpips(tmp_path)
    torch.save({}, tmp_path / "alex.pth")
    with pytest.raises(ValueError, match=r"lin0.model.1.weight is missing.: copy .* anew"):
        Lpips(tmp_path)
    (tmp_path / "alex.pth").write_bytes(b"x")
    with pytest.raises(ValueError, match="cannot be read as weights"):
        Lpips(tmp_path)


# -- CLIP and DINO ------------------------------------------------------------------------------------------


def test_clip_similarities_are_cosines_of_what_the_model_gives(tmp_path: Path, clip: ClipFeatures) -> None:
    from transformers import CLIPModel, CLIPTokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    source, image = save(tmp_path / "s.png", noise(0)), save(tmp_path / "e.png", noise(1))
    case = edit("0", source, about=BEFORE_AFTER)
    model = CLIPModel.from_pretrained(clip_folder()).eval()
    pictures = [Image.open(source), Image.open(image)]
    pixels = CLIPImageProcessorPil.from_pretrained(clip_folder())(images=pictures, return_tensors="pt")
    tokens = CLIPTokenizer.from_pretrained(clip_folder())(
        list(BEFORE_AFTER.values()), padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        given = model(**tokens, **pixels)
    seen = torch.nn.functional.normalize(given.image_embeds, dim=-1)
    read = torch.nn.functional.normalize(given.text_embeds, dim=-1)
    cosine = torch.nn.functional.cosine_similarity
    assert ClipText(clip).measure(case, image)["clip_text"] == pytest.approx(
        (seen[1] @ read[1]).item(), abs=1e-5
    )
    assert ClipImage(clip).measure(case, image)["clip_image"] == pytest.approx(
        (seen[1] @ seen[0]).item(), abs=1e-5
    )
    assert ClipDirection(clip).measure(case, image)["clip_direction"] == pytest.approx(
        cosine(seen[1] - seen[0], read[1] - read[0], dim=0).item(), abs=1e-3
    )


def test_an_unchanged_image_has_no_direction(tmp_path: Path, clip: ClipFeatures) -> None:
    source = save(tmp_path / "s.png", noise(0))
    case = edit("0", source, about=BEFORE_AFTER)
    assert ClipDirection(clip).measure(case, source) == {"clip_direction": 0.0}
    assert ClipImage(clip).measure(case, source)["clip_image"] == pytest.approx(1, abs=1e-6)


def test_clip_applies_where_there_are_captions(tmp_path: Path, clip: ClipFeatures) -> None:
    bare, told = edit("0", tmp_path), edit("0", tmp_path, about=BEFORE_AFTER)
    assert [ClipText(clip).applies(case) for case in (caption("0"), bare, told)] == [True, False, True]
    assert [ClipImage(clip).applies(case) for case in (caption("0"), bare)] == [False, True]
    assert [ClipDirection(clip).applies(case) for case in (caption("0"), bare, told)] == [False, False, True]


def test_a_prompt_longer_than_the_model_reads_is_cut(clip: ClipFeatures) -> None:
    long = "a red circle on a blue square " * 40
    assert torch.equal(clip.embed_text(long), clip.embed_text(long + "two green stars"))


def test_an_image_that_was_made_anew_is_looked_at_anew(tmp_path: Path, clip: ClipFeatures) -> None:
    first = clip.embed(save(tmp_path / "e.png", noise(0)))
    second = clip.embed(save(tmp_path / "e.png", noise(1, 32, 32)))
    assert not torch.equal(first, second)


def test_whatever_a_model_reads_is_part_of_what_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    shutil.copytree(clip_folder(), folder)
    (folder / "merges.txt").write_text("#version: 0.2\na b\n")
    digests = [choose_metrics(["clip"], clip=folder).by["clip_text"]]
    for name, counts in (("merges.txt", True), ("spiece.model", True), ("README.md", False)):
        (folder / name).write_text("#version: 0.2\na c\n")
        digests.append(choose_metrics(["clip"], clip=folder).by["clip_text"])
        assert (digests[-1] != digests[-2]) == counts
    # Beside other weights, LPIPS still is its own two files.
    lpips_folder(folder)
    former = choose_metrics(["lpips"], lpips=folder).by["source_lpips"]
    weights = torch.load(folder / "alex.pth", weights_only=True)
    torch.save({name: 2 * value for name, value in weights.items()}, folder / "alex.pth")
    assert choose_metrics(["lpips"], lpips=folder).by["source_lpips"] != former


@pytest.mark.parametrize("folder", [dino_folder, dinov2_folder])
def test_dino_similarity_is_that_of_class_tokens(tmp_path: Path, folder: object) -> None:
    assert callable(folder)
    metric = DinoImage(DinoFeatures(folder()))
    source, image = save(tmp_path / "s.png", noise(0)), save(tmp_path / "e.png", noise(1))
    case = edit("0", source)
    assert metric.measure(case, source)["dino_image"] == pytest.approx(1, abs=1e-6)
    assert -1 <= metric.measure(case, image)["dino_image"] < 1
    assert metric.applies(case) and not metric.applies(caption("0"))


def test_a_folder_with_another_model_or_too_few_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no config.json, so it holds no CLIP model"):
        ClipFeatures(tmp_path)
    with pytest.raises(ValueError, match="holds a model of type 'dinov2' and no CLIP model"):
        ClipFeatures(dinov2_folder())
    with pytest.raises(ValueError, match="holds a model of type 'clip' and no DINO model"):
        DinoFeatures(clip_folder())
    copy = tmp_path / "copy"
    shutil.copytree(clip_folder(), copy)
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks weights such as visual_projection\.weight"):
        ClipFeatures(copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"the CLIP model in .* cannot be read"):
        ClipFeatures(copy)


# -- sharpness and diversity --------------------------------------------------------------------------------


def test_blur_is_less_sharp(tmp_path: Path) -> None:
    sharp = save(tmp_path / "a.png", noise(0))
    blurred = tmp_path / "b.png"
    Image.open(sharp).resize((16, 12)).resize((64, 48)).save(blurred)
    values = [Sharpness().measure(caption("0"), image)["sharpness"] for image in (sharp, blurred)]
    assert values[0] > 3 * values[1] > 0


class Flat:
    """Sees the colour of the first pixel."""

    def embed(self, image: Path) -> Tensor:
        if not image.exists():
            raise ValueError(f"image '{image}' cannot be read.")
        red, green, blue = np.asarray(Image.open(image))[0, 0] > 100
        return torch.nn.functional.normalize(torch.tensor([red, green, blue]).float(), dim=0)


def test_diversity_is_the_mean_distance_of_pairs(tmp_path: Path) -> None:
    red = save(tmp_path / "red.png", np.full((4, 4, 3), RED))
    blue = save(tmp_path / "blue.png", np.full((4, 4, 3), BLUE))
    images = [
        (caption("0"), [red, red, blue]),
        (caption("1"), [blue, blue, blue]),
        (caption("2"), [tmp_path / "missing.png", red]),
        (caption("3", category="lonely"), [red]),
    ]
    rows = {(row.case, row.metric): row for row in measure_diversity(images, Flat())}
    assert rows["0", "diversity_noise"].value == pytest.approx(2 / 3)
    assert rows["1", "diversity_noise"].value == pytest.approx(0)
    assert rows["0", "diversity_category"].value == rows["1", "diversity_category"].value
    assert rows["0", "diversity_category"].value == pytest.approx(2 / 3)
    for metric in ("diversity_noise", "diversity_category"):
        assert rows["2", metric].value is None and "missing.png" in str(rows["2", metric].problem)
    assert not [key for key in rows if key[0] == "3"]


def test_what_is_there_decides_what_is_measured(tmp_path: Path, clip: ClipFeatures) -> None:
    def names(**given: object) -> list[str]:
        metrics = local_metrics(**given)  # type: ignore[arg-type]
        return [info.name for metric in metrics for info in metric.measures]

    pixels = [f"{where}_{name}" for where in ("outside", "source") for name in ("l1", "psnr", "ssim")]
    assert names() == [*pixels, "sharpness"]
    every = names(clip=clip, dino=Flat(), detector=Stub(), lpips=lpips_folder(tmp_path))
    more = {"clip_text", "clip_image", "clip_direction", "dino_image", "geneval_correct"}
    assert set(every) == {*pixels, "sharpness", "outside_lpips", "source_lpips", *more}
    assert len(every) == len(set(every))
    with pytest.raises(ValueError, match="give clip along with detector"):
        local_metrics(detector=Stub())
