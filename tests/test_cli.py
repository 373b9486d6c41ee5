"""The command line, on the tiny family of the training tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers  # noqa: F401  # its first import may write to stderr, where the tests look for one sentence
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

import danceopd
import danceopd.families
import danceopd.training.loading
from danceopd import cli
from danceopd.families import usable_device
from danceopd.pictures import read_png, write_pngs
from tests.page.html import Page
from tests.training.tiny import TinyFamily

ROOT = Path(__file__).parents[1]

CONFIG = """
output_dir: {folder}/run
family: tiny
max_steps: 4
batch_size: 2
gradient_accumulation_steps: 1
num_rollout_steps: 4
save_every: 2
progress: false
teachers:
  - {{name: one, checkpoint: "1"}}
routes:
  - {{teacher: one, data: "5"}}
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config file whose family is the tiny one."""

    def load_family(
        name: str, *, dtype: torch.dtype = torch.float32, device: str = "cpu", resolution: int | None = None
    ) -> TinyFamily:
        if name != "tiny":
            raise ValueError(f"family must be tiny, but got '{name}'; name that one.")
        assert usable_device(device) == torch.device("cpu")
        return TinyFamily(dtype)

    monkeypatch.setattr(danceopd.families, "load_family", load_family)
    monkeypatch.setattr(danceopd.training.loading, "load_family", load_family)
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(folder=tmp_path))
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def told(result: Result, *words: str, code: int = 2) -> None:
    """The result is one sentence on stderr with these words, and nothing on stdout."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    # The tiny family's experts are random, which a check warns of before it comes to the mistake.
    (sentence,) = [line for line in result.stderr.splitlines() if "weights are untrained" not in line]
    assert sentence.startswith("danceopd: ") and "Traceback" not in sentence
    for word in words:
        assert word in sentence


def test_train_then_sample(config: Path, tmp_path: Path) -> None:
    result = run("train", config, "max_steps=3")
    assert result.exit_code == 0, result.output
    assert "3 updates done; the student is in" in result.stderr
    out = tmp_path / "image.png"
    result = run("sample", tmp_path / "run", "--prompt", "1", "--steps", 2, "--out", out)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(out)
    with Image.open(out) as image:
        assert image.size == (256, 256)


def test_train_continues_and_refuses_another_run(config: Path, tmp_path: Path) -> None:
    assert run("train", config).exit_code == 0
    assert run("train", config, "max_steps=6").exit_code == 0
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    told(run("train", config, "max_steps=6", "seed=1"), "seed=0 but 1")
    told(run("train", config, "--no-resume"), "holds a run already")
    told(
        run("train", config, "--no-resume", "--resume-from", "x"), "--no-resume", "--resume-from x", "one of"
    )
    fork = run(
        "train",
        config,
        f"output_dir={tmp_path}/fork",
        "--resume-from",
        tmp_path / "run/checkpoints/step-00000006",
    )
    told(fork, "max_steps=4 is less than the 6 updates")


def test_a_stopped_training_says_so(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = TinyFamily.teacher

    def interrupted(self: TinyFamily, asked: Any) -> Any:
        field, calls = teacher(self, asked), []

        def call(*args: Any) -> Any:
            calls.append(1)
            if len(calls) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return field(*args)

        return call

    monkeypatch.setattr(TinyFamily, "teacher", interrupted)
    result = run("train", config, "--no-check")
    assert result.exit_code == 128 + signal.SIGTERM
    assert f"Stopped after 2 of 4 updates; to go on: danceopd train {config} --no-check" in result.stderr
    monkeypatch.undo()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_rows_are_encoded_ends_in_a_sentence(
    config: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, tmp_path: Path
) -> None:
    prepare, before = TinyFamily.prepare, signal.getsignal(number)

    def interrupted(self: TinyFamily, *args: Any, **how: Any) -> Any:
        signal.raise_signal(number)
        return prepare(self, *args, **how)

    with monkeypatch.context() as patch:
        patch.setattr(TinyFamily, "prepare", interrupted)
        told(run("train", config, "--no-check"), "stopped while rows were encoded", code=128 + number)
    assert signal.getsignal(number) == before
    assert run("train", config, "--no-check").exit_code == 0


def test_divergence_is_exit_code_one(config: Path, tmp_path: Path) -> None:
    nan = ("train", config, "teachers.0.checkpoint=nan")
    told(run(*nan, "--no-check"), "loss became nan in update 1", code=1)
    told(run(*nan, f"output_dir={tmp_path}/other"), "teacher 'one' returns a velocity that is not finite")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("max_step=1", "did you mean 'max_steps'?"),
        ("family=other", "family must be tiny"),
        ("device=cuda:9", "device 'cuda:9' is not here"),
        ("device=gpu", "device 'gpu' is unknown"),
        ("device=meta", "device 'meta' is not supported"),
        ("routes.0.data=rows.csv", "'rows.csv'"),
        ("routes.0.teacher=two", "unknown teacher 'two'"),
        ("teachers.0.checkpoint=nowhere.safetensors", "nowhere.safetensors"),
        ("output_dir=/proc/none", "output_dir '/proc/none' cannot be written"),
        ("cache_dir=/proc/none", "cache_dir '/proc/none' cannot be written"),
    ],
)
def test_a_mistake_in_the_config_is_one_sentence(
    config: Path, tmp_path: Path, override: str, words: str
) -> None:
    told(run("train", config, override), words)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_check_tells_its_steps_and_draws_samples(config: Path, tmp_path: Path) -> None:
    result = run("check", config)
    assert result.exit_code == 0
    assert all(line.endswith("the weights are untrained.") for line in result.stderr.splitlines())
    lines = [line.split() for line in result.stdout.splitlines()]
    assert [tick for tick, *_ in lines] == ["✓"] * 7
    steps = ["config", "data", "resources", "teachers", "self-test", "estimate", "samples"]
    assert [step for _, step, *_ in lines] == steps
    picture = tmp_path / "run/check/samples.png"
    assert lines[-1][2] == str(picture) and picture.is_file()
    assert run("train", config).exit_code == 0  # the picture is no run


def test_check_without_samples_writes_nothing(config: Path, tmp_path: Path) -> None:
    result = run("check", config, "--no-samples", "--json")
    report = json.loads(result.stdout)
    assert report["samples"] is None and report["estimate"]["memory"]["total"] > 0
    assert report["self_test"]["losses"] == {"one": 0.0} and report["self_test"]["start"] is True
    assert set(report["self_test"]["fields"]["one"]["misses"]) == {"0.9", "0.5", "0.1"}
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
    told(run("check", config, "--no-samples", "--out", tmp_path), "--no-samples draws none")
    told(run("check", config, "--out", "/proc/none"), "--out '/proc/none' cannot be written")
    elsewhere = run("check", config, "--out", tmp_path / "a/b")
    assert str(tmp_path / "a/b/samples.png") in elsewhere.stdout and not (tmp_path / "run").exists()


def test_check_ends_at_the_first_failure(config: Path, tmp_path: Path) -> None:
    result = run("check", config, "teachers.0.checkpoint='0'")
    assert result.exit_code == 2
    assert [line.split()[1] for line in result.stdout.splitlines()] == ["config", "data", "resources"]
    assert result.stderr.startswith("danceopd: teacher 'one' is a no-op: ")
    assert result.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_check_finds_another_run_in_the_folder(config: Path) -> None:
    assert run("train", config, "max_steps=1").exit_code == 0
    result = run("check", config, "max_steps=1", "seed=1", "--no-samples")
    assert result.exit_code == 2 and "seed=0 but 1" in result.stderr


def test_debug_shows_where_an_error_comes_from(config: Path) -> None:
    result = run("--debug", "train", config, "max_step=1")
    assert isinstance(result.exception, ValueError)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            ModuleNotFoundError("no", name="diffusers"),
            "the package 'diffusers' is not installed: pip install",
        ),
        (torch.OutOfMemoryError("CUDA"), "out of memory: lower batch_size"),
        (danceopd.training.OutOfMemoryError("out of memory: batch_size=2"), "out of memory: batch_size=2"),
        (PermissionError(13, "Permission denied", "runs/x"), "'runs/x': Permission denied."),
        (ValueError("several\n  lines"), "several lines"),
    ],
)
def test_what_goes_wrong_below_is_one_sentence_too(
    config: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def fail(self: TinyFamily, spec: str, **_: object) -> None:
        raise error

    monkeypatch.setattr(TinyFamily, "data", fail)
    told(run("train", config), words, code=1 if isinstance(error, (RuntimeError, MemoryError)) else 2)


@pytest.mark.parametrize("error", [RuntimeError("bug"), ImportError("bug", name="danceopd.flow")])
def test_a_bug_keeps_its_traceback(config: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(self: TinyFamily, spec: str, **_: object) -> None:
        raise error

    monkeypatch.setattr(TinyFamily, "data", fail)
    assert run("train", config).exception is error


def _unpack() -> None:
    _one, _two = ((1,),)[0]  # type: ignore[misc]


@pytest.mark.parametrize(
    "bug", [lambda: int("x"), lambda: json.loads("["), _unpack], ids=["int", "json", "unpack"]
)
def test_a_value_error_that_nobody_worded_keeps_its_traceback(
    config: Path, monkeypatch: pytest.MonkeyPatch, bug: Callable[[], object]
) -> None:
    monkeypatch.setattr(TinyFamily, "data", lambda self, spec, **_: bug())
    result = run("train", config)
    assert type(result.exception) in (ValueError, json.JSONDecodeError) and result.exit_code == 1


def test_mistakes_of_sample_are_one_sentence(config: Path, tmp_path: Path) -> None:
    told(run("sample", tmp_path, "--prompt", "1"), "has no checkpoint yet")
    (tmp_path / "text.png").write_text("no image")
    sampled = ("sample", "1", "--family", "tiny", "--prompt", "1")
    told(run(*sampled, "--source", tmp_path / "text.png"), "is not an image")
    told(run(*sampled, "--source", tmp_path / "none.png"), "none.png': No such file")
    told(run("sample", "1", "--family", "other", "--prompt", "1"), "family must be tiny")
    assert not list(tmp_path.glob("sample*"))


def test_where_nothing_can_be_written_is_told_before_the_work(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*arguments: Any, **settings: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(danceopd.families, "load_family", work)
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.iterdir())
    sampled = ("sample", "1", "--family", "tiny", "--prompt", "1", "--out")
    told(run(*sampled, "/proc/x.png"), "cannot write '/proc/x.png': ", "choose another folder")
    told(run(*sampled, tmp_path / "no" / "x.png"), f"the folder '{tmp_path}/no' is not there; make it first")
    told(run(*sampled, tmp_path / "x.jpg"), "x.jpg': images are kept as PNG", "end the name in .png")
    told(run(*sampled, tmp_path / "v1.0"), "v1.0': images are kept as PNG", "or make it a folder first")
    scored = ("eval", "base", "--out")
    told(run(*scored, "/proc/x.json"), "cannot write '/proc/x.json': ", "choose another folder")
    told(run(*scored, tmp_path / "folder"), "folder': it is a folder; name a file in it")
    assert sorted(tmp_path.iterdir()) == before


def test_an_output_is_whole_or_the_one_before(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "x.png"
    out.write_text("before")
    replace = Path.replace

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "replace", full)
    sampled = ("sample", "1", "--family", "tiny", "--prompt", "1", "--steps", 1, "--out", out)
    told(run(*sampled), f"cannot write '{out}': No space left on device; free space")
    assert out.read_text() == "before"
    assert not list(tmp_path.glob("*.partial"))
    monkeypatch.setattr(Path, "replace", replace)
    assert run(*sampled).exit_code == 0
    assert read_png(out).shape == (3, 4, 4)


def test_several_images_are_files_of_a_folder_or_one_row(config: Path, tmp_path: Path) -> None:
    sampled = ("sample", "1", "--family", "tiny", "--prompt", "1", "--prompt", "2", "--steps", 2)
    result = run(*sampled, "--out", tmp_path / "images", "--zoom", 1)
    assert result.stdout.split() == [str(tmp_path / "images" / name) for name in ("000.png", "001.png")]
    (tmp_path / "v1.0").mkdir()
    assert str(tmp_path / "v1.0" / "001.png") in run(*sampled, "--out", tmp_path / "v1.0").stdout
    run(*sampled, "--out", tmp_path / "row.png", "--zoom", 3)
    with Image.open(tmp_path / "row.png") as row, Image.open(tmp_path / "images/001.png") as second:
        assert (second.size, row.size) == ((4, 4), (24, 12))
        assert second.getpixel((1, 2)) == row.getpixel((12 + 3 * 1 + 1, 3 * 2 + 1))


def test_an_enlarged_image_is_read_back_as_its_pixels(tmp_path: Path) -> None:
    image = torch.randint(0, 256, (1, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    (path,) = write_pngs(image, tmp_path / "x.png")
    assert torch.equal(read_png(path), image[0])


def test_eval_hands_over_what_was_asked(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import danceopd.shapesworld

    asked: dict[str, Any] = {}

    class Scores:
        def to_dict(self) -> dict[str, float]:
            return {"mean": 0.5}

    def evaluate(family: Any, field: Any, grounds: list[str], **settings: Any) -> Scores:
        asked.update(settings, grounds=grounds, family=family)
        return Scores()

    monkeypatch.setattr(danceopd.shapesworld, "evaluate", evaluate)
    monkeypatch.setattr(danceopd.shapesworld, "ShapesWorldFamily", TinyFamily)
    run("train", config)
    result = run("eval", tmp_path / "run", "--ground", "local", "--prompts", 7, "--seed", 3)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"mean": 0.5}
    assert asked.pop("family").name == "tiny"
    assert asked == {"grounds": ["local"], "prompts": 7, "num_steps": 8, "guidance_scale": 1.0, "seed": 3}
    run("eval", tmp_path / "run", "--out", tmp_path / "scores.json")
    assert json.loads((tmp_path / "scores.json").read_text()) == {"mean": 0.5}
    assert asked["grounds"] == ["t2i", "local", "global"]
    told(run("eval", tmp_path / "run", "--ground", "locl"), "did you mean 'local'?")
    monkeypatch.undo()


def test_only_shapesworld_can_be_scored(config: Path, tmp_path: Path) -> None:
    run("train", config)
    result = run("eval", tmp_path / "run")
    assert result.exit_code == 2
    assert "is of the family 'tiny', but only ShapesWorld can be scored" in result.stderr


def test_info_tells_versions_kernels_and_the_self_test() -> None:
    result = run("info")
    assert result.exit_code == 0, result.output
    for word in (
        danceopd.__version__,
        torch.__version__,
        "diffusers",
        "instructions",
        "CUDA devices",
        "passed on cpu",
    ):
        assert word in result.stdout
    facts = json.loads(run("info", "--json").stdout)
    assert facts["danceopd"] == danceopd.__version__
    assert facts["self_test"]["passed"] is True
    assert facts["kernels"]["cpu_isa"] in facts["kernels"]["cpu_isas"]


def test_info_fails_with_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    from danceopd import ops

    wrong = ops.SelfTest("guide", "cpu", "float32", error=0.5, allowed=1e-7)
    monkeypatch.setattr(ops, "self_test", lambda: [wrong])
    result = run("info")
    assert result.exit_code == 1
    assert "kernel 'guide' is wrong on cpu in float32" in result.stderr


@pytest.mark.parametrize("command", ["info", "demo", "check", "sample", "eval", "report"])
def test_help_needs_no_torch(command: str) -> None:
    code = (
        "import sys\nfrom danceopd.cli import app\n"
        f"try: app(['{command}', '--help'])\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout


def test_the_package_is_light_until_used_and_honest_about_its_names() -> None:
    code = (
        "import sys, danceopd\n"
        "assert not {'torch', 'pydantic', 'diffusers'} & set(sys.modules)\n"
        "assert set(danceopd.__all__) <= set(dir(danceopd))\n"
        "light = set(danceopd.__all__) - {'schedulers'}\n"
        "for name in light: assert getattr(danceopd, name) is not None, name\n"
        "assert 'diffusers' not in sys.modules\n"
        "assert danceopd.schedulers.FusedFlowMatchEulerScheduler\n"
        "try: danceopd.nothing\n"
        "except AttributeError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "module 'danceopd' has no attribute 'nothing'", done.stderr


def test_the_module_runs_as_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "danceopd", "train", "none.yaml"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr == "danceopd: cannot read the config 'none.yaml': No such file or directory.\n"


def test_report_is_written_anew_at_any_time(config: Path, tmp_path: Path) -> None:
    told(run("report", tmp_path / "none"), "is not the folder of a run")
    assert run("train", config, "max_steps=2", "--no-check").exit_code == 0
    (path,) = tmp_path.rglob("report.html")
    path.unlink()
    result = run("report", path.parent)
    assert (result.exit_code, result.stdout) == (0, f"{path}\n")
    assert "Finished: 2 updates." in Page(path).text
