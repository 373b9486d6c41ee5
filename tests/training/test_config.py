from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danceopd.flow import QUERY_LAWS, QueryLaw
from danceopd.training import (
    ConfigError,
    Route,
    RunConfig,
    StudentConfig,
    Teacher,
    TrainConfig,
    load_run_config,
    write_config,
)

RUN = """
output_dir: runs/x
family: tiny
learning_rate: 2e-4
max_grad_norm: null
teachers: [{name: a}, {name: b, lora: adapter}]
routes:
  - {teacher: a, data: rows.csv}
"""


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(RUN)
    return path


def test_defaults_are_the_papers_recipe() -> None:
    config = TrainConfig(output_dir="x")
    assert (config.max_steps, config.learning_rate, config.num_rollout_steps) == (3000, 2e-4, 16)
    assert (config.query_law.alpha, config.query_law.beta, config.max_grad_norm) == (5.0, 2.0, 1.0)
    assert config.samples_per_update == 16


def test_every_key_says_what_it_is() -> None:
    for cls in (Teacher, Route, StudentConfig, RunConfig):
        for name, field in cls.__pydantic_fields__.items():  # type: ignore[attr-defined]
            assert field.description and field.description.endswith("."), f"{cls.__name__}.{name}"


def test_yaml_numbers_and_null_are_read_as_in_python(run_file: Path) -> None:
    config = load_run_config(run_file)
    assert config.learning_rate == 2e-4
    assert config.max_grad_norm is None
    assert config.teachers[1] == Teacher("b", lora="adapter")


def test_overrides_reach_mappings_and_lists(run_file: Path) -> None:
    config = load_run_config(
        run_file,
        [
            "max_steps=10",
            "teachers.1.scale=0.5",
            "query.alpha=2",
            "student={kind: lora, rank: 4}",
            "learning_rate=1e-3",
        ],
    )
    assert (config.max_steps, config.teachers[1].scale, config.query.alpha) == (10, 0.5, 2.0)
    assert config.student == StudentConfig(kind="lora", rank=4)
    assert config.learning_rate == 1e-3


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("max_step=3", ["unknown key 'max_step'", "did you mean 'max_steps'?"]),
        ("query.alhpa=3", ["unknown key 'query.alhpa'", "did you mean 'alpha'?"]),
        ("teachers.1.scal=3", ["unknown key 'teachers.1.scal'", "did you mean 'scale'?"]),
        ("zzz=1", ["unknown key 'zzz'", "known are", "batch_size"]),
        ("max_steps=0", ["max_steps must be at least 1, got 0"]),
        ("max_steps=1.5", ["max_steps must be an integer, got 1.5"]),
        ("max_steps=true", ["max_steps must be an integer, got True"]),
        ("learning_rate='1e-4'", ["learning_rate must be a number, got '1e-4'"]),
        ("learning_rate=.inf", ["learning_rate must be a finite number, got inf"]),
        ("drop_condition=1.5", ["drop_condition must be at most 1.0, got 1.5"]),
        ("ema_decay=1", ["ema_decay must be less than 1.0, got 1"]),
        ("progress=1", ["progress must be true or false, got 1"]),
        ("student.kind=ful", ["student.kind must be 'auto', 'full' or 'lora', got 'ful'"]),
        ("student=lora", ["student must be a mapping of keys to values, got 'lora'"]),
        ("student.targets=[]", ["student.targets must be a list of at least 1, got []"]),
        ("query=lwo", ["query 'lwo' is unknown", "did you mean 'low'?"]),
        ("query=3", ["query must be a mapping of keys to values, got 3"]),
        ("query={index: 1, alpha: 3}", ["query.index=1 takes the place", "alpha=3.0", "drop the index"]),
        ("query.index=16", ["query.index=16", "num_rollout_steps=16", "counts from 0: lower it"]),
        ("query.index=-1", ["query.index must be at least 0, got -1"]),
        ("student.init=3", ["student.init must be a name, or a mapping of names to factors, got 3"]),
        ("student.init={a: b}", ["student.init must be a name, or a mapping", "got {'a': 'b'}"]),
        ("student.init={}", ["student.init must be a name, or a mapping", "got {}"]),
        ("student.init={base: 0.5}", ["student.init scales 'base' by 0.5", "leave 'base' out"]),
        ("student.init={base: 1, b: 0.5}", ["student.init scales 'base' by 1", "leave 'base' out"]),
        (
            "student={kind: full, rank: 4}",
            ["student.rank=4 is for a LoRA", "student.kind is 'full'", "set that to 'lora'"],
        ),
        ("student={kind: full, alpha: 4.0}", ["student.alpha=4.0 is for a LoRA", "leave alpha out"]),
        (
            "student={kind: full, targets: [to_q]}",
            ["student.targets=['to_q'] is for a LoRA", "leave targets out"],
        ),
        ("output_dir=3", ["output_dir must be the path of a folder, got 3"]),
        ("family=", ["family must be a text, got None"]),
        ("warmup_steps=5000", ["warmup_steps=5000", "max_steps=3000", "lower it"]),
        ("routes.0.teacher=c", ["routes.0", "unknown teacher 'c'", "known are a, b"]),
        ("teachers.1.name=a", ["2 teachers are named 'a'"]),
        ("teachers=[]", ["teachers is empty"]),
        ("routes=[]", ["routes is empty"]),
        ("teachers.0.scale=2", ["teacher 'a'", "scale=2.0", "name the lora"]),
        ("teachers.0.weight_name=x", ["teacher 'a'", "weight_name='x'", "name the lora"]),
        ("teachers.5.scale=1", ["'teachers'", "from 0 to 1, got '5'"]),
        ("teachers.one.scale=1", ["'teachers'", "from 0 to 1, got 'one'"]),
        ("family.x=1", ["goes below 'family'"]),
        ("max_steps", ["must look like key=value"]),
        ("=3", ["must look like key=value"]),
        ("student.targets=[a", ["override 'student.targets=[a'", "no valid YAML"]),
    ],
)
def test_a_mistake_is_one_sentence_with_key_value_and_cure(
    run_file: Path, override: str, words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_run_config(run_file, [override])
    text = str(caught.value)
    assert all(word in text for word in words), text
    assert "\n" not in text
    assert text[-1] in ".?"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("max_steps: 3\nmax_steps: 4\n", ["'max_steps' on line 2 is there twice"]),
        ("a: [1\nb: 2\n", ["no valid YAML on line"]),
        ("- 1\n", ["must be a mapping", "got list"]),
        ("", ["must be a mapping"]),
        ("3: 4\n", ["key 3 on line 1 must be a text"]),
        ("output_dir: x\n", ["is missing"]),
    ],
)
def test_a_bad_file_is_named_in_one_sentence(tmp_path: Path, content: str, words: list[str]) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        load_run_config(path)
    assert all(word in str(caught.value) for word in ["bad.yaml", *words]), str(caught.value)


def test_a_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml': No such file"):
        load_run_config(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary\.yaml': it is no UTF-8"):
        load_run_config(tmp_path / "binary.yaml")


def test_python_calls_are_checked_alike() -> None:
    with pytest.raises(ConfigError, match="takes only name by position but got 2"):
        Teacher("a", "b")  # type: ignore[call-arg,misc]
    with pytest.raises(ConfigError, match="did you mean 'scale'"):
        Teacher("a", scal=2)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="'data' of Route is missing"):
        Route("a")  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="max_steps must be at least 1, got -7"):
        dataclasses.replace(TrainConfig(output_dir="x"), max_steps=-7)


@pytest.mark.parametrize("name", QUERY_LAWS)
def test_a_query_law_may_be_named(run_file: Path, name: str) -> None:
    config = load_run_config(run_file, [f"query={name}"])
    assert config.query.law == QUERY_LAWS[name]
    assert TrainConfig(output_dir="x", query=name).query == config.query  # type: ignore[arg-type]


def test_a_state_may_be_queried_always(run_file: Path) -> None:
    assert load_run_config(run_file, ["query.index=3"]).query.law == QueryLaw(index=3)
    with pytest.raises(ConfigError, match=r"query\.uniform_share is of no use to one fixed state, index=3"):
        load_run_config(run_file, ["query.index=3", "query.uniform_share=0.5"])


def test_a_named_law_may_leave_a_share_to_all_states(run_file: Path) -> None:
    config = load_run_config(run_file, ["query={law: high, uniform_share: 0.25}"])
    assert config.query.law == dataclasses.replace(QUERY_LAWS["high"], uniform_share=0.25)


def test_a_full_student_may_repeat_the_defaults_of_a_lora() -> None:
    """As the config that a run keeps does."""
    assert StudentConfig(kind="full", rank=16, alpha=None, targets=None).kind == "full"
    assert StudentConfig(rank=4).settled("lora") == StudentConfig(kind="lora", rank=4)
    with pytest.raises(ConfigError, match=r"student\.rank=4 is for a LoRA"):
        StudentConfig(rank=4).settled("full")
    with pytest.raises(ConfigError, match=r"student\.rank=8 is for a LoRA"):
        StudentConfig(kind="full", rank=8)


def test_a_config_cannot_change_behind_the_runs_back() -> None:
    config = TrainConfig(output_dir="x")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.max_steps = 3  # type: ignore[misc]


_RANGES: dict[str, st.SearchStrategy[Any]] = {
    "max_steps": st.integers(1, 10**6),
    "learning_rate": st.floats(1e-12, 10.0),
    "adam_epsilon": st.floats(1e-30, 1e-3),
    "ema_decay": st.none() | st.floats(0.001, 0.999),
    "seed": st.integers(0, 2**63 - 1),
    "progress": st.booleans(),
    "output_dir": st.text(min_size=1).filter(lambda text: text.isprintable()),
    "teachers": st.lists(
        st.builds(Teacher, st.text("abc", min_size=1), guidance_scale=st.floats(0.0, 100.0)),
        min_size=1,
        unique_by=lambda teacher: teacher.name,
    ),
}


@settings(deadline=None, max_examples=60)
@given(values=st.fixed_dictionaries(_RANGES))
def test_what_is_written_is_read_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]
) -> None:
    config = RunConfig(family="tiny", routes=[Route(values["teachers"][0].name, data="rows")], **values)
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    write_config(config, path)
    assert load_run_config(path) == config
