"""The self-test sees wrong conventions: laws in any field, the rest in fields that are trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import danceopd.shapesworld.family as shapesworld_family
from danceopd.flow import GuidedField
from danceopd.settings import ConfigError
from danceopd.shapesworld import ShapesWorldFamily
from danceopd.shapesworld.model import ShapesCondition, predict
from danceopd.training import CheckReport, Route, RunConfig, StudentConfig, Teacher, check_run
from tests.training import tiny
from tests.training.tiny import TinyCondition, TinyFamily

torch.set_num_threads(1)

Wrong = Callable[[Any, Tensor, Tensor, ShapesCondition], Tensor]


def run_config(folder: Path, family: str, teachers: list[Teacher], **settings: Any) -> RunConfig:
    data = {"tiny": "7", "local": "local", "global": "global", "t2i": "t2i"}
    defaults = {"num_rollout_steps": 4, "batch_size": 2, "gradient_accumulation_steps": 1}
    return RunConfig(
        family=family,
        output_dir=folder / "run",
        teachers=teachers,
        routes=[
            Route(teacher.name, data=data["tiny" if family == "tiny" else teacher.name])
            for teacher in teachers
        ],
        progress=False,
        **(defaults | settings),
    )


def trained(folder: Path, dtype: torch.dtype = torch.float32) -> CheckReport:
    """The check of ShapesWorld's shipped experts, whose weights are trained."""
    teachers = [
        Teacher("local", checkpoint="local"),
        Teacher("global", checkpoint="global", guidance_scale=3.0),
        Teacher("t2i"),
    ]
    config = run_config(folder, "shapesworld", teachers, student=StudentConfig(init="edit"))
    return check_run(config, family=ShapesWorldFamily(dtype=dtype)).report


def random(folder: Path) -> CheckReport:
    config = run_config(folder, "tiny", [Teacher("one", checkpoint="1")])
    return check_run(config, family=TinyFamily()).report


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_trained_experts_pass_without_a_warning(tmp_path: Path, dtype: torch.dtype) -> None:
    report = trained(tmp_path, dtype)
    assert report.warnings == []
    for name, field in report.self_test.fields.items():
        assert field.alone < (1e-5 if dtype == torch.float32 else 0.05)
        assert 0.8 < field.noise_share < 1.2 and max(field.misses.values()) < 0.6
        assert min(field.speeds.values()) > 0.5 * max(field.speeds.values())
        assert field.prompt and field.time
        assert (field.source is None) == (name == "t2i") and field.source != 0.0
        assert name in " ".join(report.self_test.lines())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda model, x, sigma, c: -predict(model, x, sigma, c), "does not see noise as noise"),
        (lambda model, x, sigma, c: predict(model, x, 1000 * sigma, c), "does not see noise as noise"),
        (lambda model, x, sigma, c: predict(model, x, sigma / 1000, c), "does not see noise as noise"),
        (lambda model, x, sigma, c: predict(model, x, 1 - sigma, c), "does not see noise as noise"),
        (lambda model, x, sigma, c: predict(model, x, sigma, c.unconditional()), "to its prompts"),
        (lambda model, x, sigma, c: predict(model, x, 0 * sigma + 0.5, c), "to its sigma"),
        (
            lambda model, x, sigma, c: predict(
                model, x, sigma, ShapesCondition(c.tokens, 0 * c.source, c.has_source)
            ),
            "to its sources",
        ),
    ],
    ids=["sign", "time-x1000", "time-/1000", "time-reversed", "no-prompt", "no-time", "no-source"],
)
def test_wrong_conventions_of_trained_fields_are_seen(
    wrong: Wrong, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shapesworld_family, "predict", wrong)
    warnings = trained(tmp_path).warnings
    assert any("teacher 'global'" in warning and words in warning for warning in warnings), warnings


def test_a_field_that_draws_what_it_does_not_know_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right at pure noise, and wrong below."""

    def wrong(model: Any, x: Tensor, sigma: Tensor, condition: ShapesCondition) -> Tensor:
        sign = torch.where(sigma == 1.0, 1.0, -1.0)
        return predict(model, x, sigma, condition) * sign.view(-1, 1, 1, 1)

    monkeypatch.setattr(shapesworld_family, "predict", wrong)
    assert any("does not know its own samples" in warning for warning in trained(tmp_path).warnings)


def _first_prompt(model: Any, x: Tensor, sigma: Tensor, condition: TinyCondition) -> Tensor:
    return model(x, sigma, condition.embedding[:1].expand_as(condition.embedding))


def _first_sigma(model: Any, x: Tensor, sigma: Tensor, condition: TinyCondition) -> Tensor:
    return model(x, sigma[:1].expand_as(sigma), condition.embedding)


def _not_finite_near_the_end(model: Any, x: Tensor, sigma: Tensor, condition: TinyCondition) -> Tensor:
    return model(x, torch.where(sigma < 0.3, torch.nan, sigma), condition.embedding)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (_first_prompt, "answers two rows otherwise than each alone"),
        (_first_sigma, "answers two rows otherwise than each alone"),
        (_not_finite_near_the_end, "velocit.* not finite"),
    ],
)
def test_laws_hold_for_untrained_fields_too(
    wrong: Any, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert random(tmp_path).self_test.fields["one"].alone < 1e-6
    monkeypatch.setattr(tiny, "_predict", wrong)
    with pytest.raises(ConfigError, match=words) as caught:
        random(tmp_path)
    assert "\n" not in str(caught.value)


def test_without_teachers_the_students_start_is_tried(tmp_path: Path) -> None:
    teachers = [Teacher("local", checkpoint="local"), Teacher("t2i")]
    config = run_config(tmp_path, "shapesworld", teachers, method="sft", student=StudentConfig(init="edit"))
    report = check_run(config, family=ShapesWorldFamily()).report
    assert report.self_test.losses == {} and list(report.self_test.fields) == ["student"]
    assert report.warnings == [] and "student holds 1 of pure noise" in report.self_test.lines()[-1]


def test_guidance_counts_its_scale_from_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def guided(self: TinyFamily, field: Any, scale: float) -> Any:
        # What a pipeline that counts from 0 means by the same number.
        return (
            field
            if scale == 1.0
            else GuidedField(field, scale, lambda uncond, cond, s: cond + s * (cond - uncond))
        )

    monkeypatch.setattr(TinyFamily, "guided", guided)
    with pytest.raises(
        ConfigError, match=r"guidance at scale 1 is .* away from the velocity of teacher 'one'"
    ):
        random(tmp_path)


def test_a_prompt_that_an_untrained_field_drops_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not any("listen" in warning for warning in random(tmp_path).warnings)
    monkeypatch.setattr(
        tiny, "_predict", lambda model, x, sigma, condition: model(x, sigma, 0 * condition.embedding)
    )
    assert any("does not listen to its prompts" in warning for warning in random(tmp_path).warnings)
