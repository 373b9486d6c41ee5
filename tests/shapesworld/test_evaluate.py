from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from danceopd.shapesworld import GROUNDS, ShapesWorldFamily, TaskSet, evaluate, held_out_tasks, render
from danceopd.shapesworld.evaluate import Scores
from danceopd.shapesworld.family import as_example
from danceopd.shapesworld.model import ShapesCondition

PROMPTS = 12


class Oracle:
    """The velocity towards a known answer of every held-out task: (sample - answer) / sigma."""

    def __init__(self, family: ShapesWorldFamily, grounds: tuple[str, ...]) -> None:
        tasks = [
            task for ground in grounds for rows in held_out_tasks(ground, PROMPTS).values() for task in rows
        ]
        condition = family.encode([as_example(task) for task in tasks])
        answers = render([task.target for task in tasks])
        self.answers = {self._key(condition, row): answers[row] for row in range(len(tasks))}

    @staticmethod
    def _key(condition: ShapesCondition, row: int) -> tuple[bytes, bytes]:
        return condition.tokens[row].numpy().tobytes(), condition.source[row].numpy().tobytes()

    def __call__(self, sample: Tensor, sigma: Tensor, condition: ShapesCondition) -> Tensor:
        answer = torch.stack([self.answers[self._key(condition, row)] for row in range(len(condition))])
        return (sample - answer) / sigma[:, None, None, None]


def copy_the_source(sample: Tensor, sigma: Tensor, condition: ShapesCondition) -> Tensor:
    return (sample - condition.source) / sigma[:, None, None, None]


def test_a_perfect_model_scores_one() -> None:
    family = ShapesWorldFamily()
    scores = evaluate(family, Oracle(family, ("t2i", "local", "global")), prompts=PROMPTS, num_steps=2)
    assert scores.grounds == {"t2i": 1.0, "local": 1.0, "global": 1.0}
    assert scores.mean == 1.0
    assert {ground: tuple(shares) for ground, shares in scores.categories.items()} == {
        ground: GROUNDS[ground] for ground in ("t2i", "local", "global")
    }
    assert set(scores.diversity) == {"t2i", "local", "global"}
    for ground, diversity in scores.diversity.items():
        assert diversity.readable == 1.0
        assert all(diversity.ratio(name) > 0.9 for name in ("background", "position", "size"))
        # This model knows one answer to each prompt, whatever the noise.
        assert diversity.entropy.get("layout", 0.0) == 0.0, ground
    assert "layout" in scores.diversity["t2i"].entropy
    assert "layout" in scores.diversity["local"].entropy
    assert "layout" not in scores.diversity["global"].entropy


def test_guidance_of_a_field_that_ignores_words_changes_nothing() -> None:
    scores = evaluate(
        ShapesWorldFamily(), copy_the_source, "edit", prompts=2, num_steps=1, guidance_scale=3.0
    )
    assert scores.grounds == {"edit": 0.0}
    assert set(scores.diversity) == {"edit"}


def test_copying_the_source_scores_zero() -> None:
    scores = evaluate(ShapesWorldFamily(), copy_the_source, ["local", "global"], prompts=PROMPTS, num_steps=1)
    assert scores.mean == 0.0


def test_every_category_gets_its_own_share() -> None:
    family = ShapesWorldFamily()
    field = Oracle(family, ("global",))
    by_category = held_out_tasks("global", PROMPTS)
    wrong = by_category["style-change"] + by_category["background-change"][:3]
    condition = family.encode([as_example(task) for task in wrong])
    for row in range(len(wrong)):
        field.answers[field._key(condition, row)] = condition.source[row]
    scores = evaluate(family, field, "global", prompts=PROMPTS, num_steps=1)
    assert scores.categories == {"global": {"background-change": 1 - 3 / PROMPTS, "style-change": 0.0}}


def test_the_same_seed_gives_the_same_scores(family: ShapesWorldFamily) -> None:
    field = family.field("base")
    first, again = (evaluate(family, field, ["t2i"], prompts=2, num_steps=2, seed=5) for _ in range(2))
    assert first == again


def test_scores_are_means_of_means() -> None:
    scores = Scores(
        {"local": {"a": 1.0, "b": 0.5}, "global": {"c": 0.25}}, prompts=4, diversity={}, fulfilled={}
    )
    assert scores.ground("local") == 0.75
    assert scores.mean == 0.5


def test_scores_are_plain_numbers() -> None:
    family = ShapesWorldFamily()
    scores = evaluate(
        family, Oracle(family, ("t2i", "global")), ("t2i", "global"), prompts=PROMPTS, num_steps=1
    )
    content = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
    assert content["grounds"] == {"t2i": 1.0, "global": 1.0}
    assert content["categories"]["global"] == {"background-change": 1.0, "style-change": 1.0}
    assert content["prompts_per_category"] == PROMPTS
    assert content["diversity"]["t2i"]["layout"].keys() == {"entropy_bits", "truth_bits", "ratio"}


def test_held_out_tasks_are_test_rows() -> None:
    tasks = held_out_tasks("global", 3)
    assert tasks == {c: [TaskSet((c,), "test")[row] for row in range(3)] for c in GROUNDS["global"]}


def test_settings_are_chosen_on_rows_of_their_own() -> None:
    chosen = held_out_tasks("global", 3, "validation")
    assert chosen == {c: [TaskSet((c,), "validation")[row] for row in range(3)] for c in GROUNDS["global"]}
    assert chosen != held_out_tasks("global", 3)
    with pytest.raises(ValueError, match="split must be 'test' or 'validation', but got 'train'"):
        held_out_tasks("global", 3, "train")


@pytest.mark.parametrize(
    ("grounds", "prompts", "message"),
    [
        (["t2i", "globe"], 4, "ground 'globe' is unknown; choose one of t2i, local, global, edit."),
        ("locl", 4, "ground 'locl' is unknown"),
        ([], 4, "grounds is empty"),
        (["t2i"], 0, "prompts must be at least 1, but got 0"),
    ],
)
def test_wrong_arguments_are_refused(grounds: str | list[str], prompts: int, message: str) -> None:
    with pytest.raises(ValueError) as error:
        evaluate(ShapesWorldFamily(), copy_the_source, grounds, prompts=prompts)
    assert message in str(error.value)
