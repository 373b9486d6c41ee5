"""Every method on the real families' tiny kinds: data with targets and masks, two teachers, mixed shapes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from danceopd.methods import METHODS
from danceopd.training import DanceOPDTrainer, Route, Teacher, load_run_config, read_metrics, write_config
from tests.families import tiny
from tests.families.test_training import make_run, trainer_of
from tests.families.tiny.calls import EDITS, NEEDS_SOURCE, picture, small_sources
from tests.families.tiny.processors import without_torchvision
from tests.families.tiny.words import PROMPTS

torch.set_num_threads(1)

NAMES = list(METHODS)
# All methods on one kind, and one on each of the others, so that each method meets several.
CASES = [("flux2-klein", name) for name in NAMES] + [
    (kind, NAMES[place % len(NAMES)])
    for place, kind in enumerate(kind for kind in tiny.KINDS if kind != "flux2-klein")
]


@pytest.fixture(autouse=True)
def smaller_and_without_torchvision() -> Iterator[None]:
    with small_sources(), without_torchvision():
        yield


def write_targets(kind: str, folder: Path) -> Path:
    """Rows of two shapes that say what should come out; edits also say where."""
    lines = ["prompt,target,height,width" + (",source,mask" if kind in EDITS else "")]
    for number, (height, width) in enumerate([(64, 64), (48, 80), (64, 64)]):
        picture(number + 5, (height, width)).save(folder / f"target{number}.png")
        cells = [f'"{PROMPTS[number]}"', f"target{number}.png", str(height), str(width)]
        if kind in EDITS:
            picture(number, (height, width)).save(folder / f"from{number}.png")
            mask = Image.new("L", (width, height))
            mask.paste(255, (0, 0, width // 2, height))
            mask.save(folder / f"mask{number}.png")
            cells += [f"from{number}.png", f"mask{number}.png"]
        lines.append(",".join(cells))
    (folder / "targets.csv").write_text("\n".join(lines))
    return folder / "targets.csv"


def run_of(kind: str, name: str, folder: Path) -> DanceOPDTrainer:
    data = str(write_targets(kind, folder))
    settings: dict[str, Any] = {"method": {"name": name, "group_size": 3} if name == "flowopd" else name}
    if METHODS[name].default_query is None:
        settings["query"] = None
    if kind in EDITS and name != "flowopd":
        settings["unedited_weight"] = 0.25
    routes = [Route("one", data=data), Route("guided", data=data)]
    config = make_run(kind, folder, routes=routes, max_steps=2, save_every=10, **settings)
    # By way of its file, as a person would.
    write_config(config, folder / "run.yaml")
    return trainer_of(load_run_config(folder / "run.yaml"))


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_method_trains_a_family(kind: str, name: str, tmp_path: Path) -> None:
    assert kind in EDITS or kind not in NEEDS_SOURCE
    trainer = run_of(kind, name, tmp_path)
    before = {key: value.detach().clone() for key, value in trainer.weights.masters.items()}
    trainer.train()
    assert any(not torch.equal(value, before[key]) for key, value in trainer.weights.masters.items())
    for line in read_metrics(tmp_path / "run/metrics.jsonl"):
        assert 0 < line["loss"] < 1000
        counts = [sum(bins["count"]) for bins in line["histograms"].values()]
        assert sum(counts) == 6 * trainer.method.num_states(3)


def test_rows_without_targets_are_named_before_weights_are_read(tmp_path: Path) -> None:
    for name in ("sft", "offpolicy"):
        config = make_run("sd3", tmp_path, method=name, teachers=[Teacher("one"), Teacher("two"),
                                                                  Teacher("guided")])  # fmt: skip
        with pytest.raises(
            ValueError, match=r"prompts\.csv has no column 'target', which is learned from"
        ) as caught:
            trainer_of(config)
        assert "\n" not in str(caught.value)
