from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from danceopd.training import (
    ConfigError,
    DivergedError,
    Route,
    StudentConfig,
    list_checkpoints,
    load_checkpoint,
    same_run,
)
from danceopd.training.metrics import MetricsFile
from tests.training.conftest import ROUTES
from tests.training.runs import MakeTrainer, bits, put_in_place
from tests.training.states import edit_state
from tests.training.test_trainer import comparable
from tests.training.tiny import TinyFamily

ROOT = Path(__file__).parents[2]


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from danceopd.training import DanceOPDTrainer, TrainConfig
from danceopd.training.metrics import MetricsFile
from tests.training.conftest import ROUTES, TEACHERS
from tests.training.tiny import TinyFamily

append = MetricsFile.append
def killing(self, line):
    append(self, line)
    if line["step"] == 8:
        self._file.write(b'{"step": 9, "loss"')
        self._file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
MetricsFile.append = killing

dtype, child = "float32", os.fork()
if child:
    dtype, (_, status) = "bfloat16", os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
config = TrainConfig(
    output_dir=Path(sys.argv[1]) / dtype, max_steps=12, batch_size=3, gradient_accumulation_steps=2,
    num_rollout_steps=4, learning_rate=1e-2, save_every=5, progress=False, ema_decay=0.9, drop_condition=0.3,
    lr_schedule="cosine", warmup_steps=3)
family = TinyFamily(getattr(torch, dtype))
DanceOPDTrainer(family=family, teachers=TEACHERS, routes=ROUTES, config=config).train()
"""


@pytest.fixture(scope="module")
def killed_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run per dtype, killed -9 in its ninth update; the last checkpoint is that of update 5."""
    folder = tmp_path_factory.mktemp("killed")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_killed_and_resumed_is_uninterrupted_bit_for_bit(
    make_trainer: MakeTrainer, killed_runs: Path, tmp_path: Path, dtype: str
) -> None:
    settings: dict[str, Any] = {
        "dtype": getattr(torch, dtype),
        "ema_decay": 0.9,
        "drop_condition": 0.3,
        "lr_schedule": "cosine",
        "warmup_steps": 3,
    }
    killed, whole = killed_runs / dtype, tmp_path / "whole"
    assert [path.name for path in list_checkpoints(killed / "checkpoints")] == ["step-00000005"]
    assert not (killed / "student.safetensors").exists()

    resumed = make_trainer(output_dir=killed, **settings)
    assert resumed.train().step == 12
    make_trainer(output_dir=whole, **settings).train()
    assert bits(killed, 12) == bits(whole, 12)
    assert set(bits(whole, 12)) == {"ema.safetensors", "optimizer.safetensors", "student.safetensors"}
    assert comparable(killed) == comparable(whole)
    assert [line["step"] for line in comparable(killed)] == list(range(1, 13))
    assert (killed / "student.safetensors").read_bytes() == (whole / "student.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"batch_size": 2}, "batch_size=3 but 2"),
        ({"learning_rate": 1e-3}, "learning_rate=0.01 but 0.001"),
        ({"seed": 1}, "seed=0 but 1"),
        ({"ema_decay": 0.5}, "ema_decay=nothing but 0.5"),
        ({"student": StudentConfig(init="3")}, "student.init='base' but '3'"),
        ({"routes": [ROUTES[0], Route("two", data="6")]}, "routes.1.data='5' but '6'"),
        ({"routes": [*ROUTES, Route("two", data="6")]}, "routes.2.data=nothing but '6'"),
        ({"lr_schedule": "linear", "max_steps": 14}, "lr_schedule='constant' but 'linear'"),
    ],
)
def test_a_changed_setting_is_refused_by_name(
    make_trainer: MakeTrainer, tmp_path: Path, changes: dict[str, Any], key: str
) -> None:
    make_trainer().train()
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(ConfigError) as caught:
        make_trainer(**changes).train()
    assert key in str(caught.value) and "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_a_run_from_before_a_setting_was_there_goes_on(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    make_trainer(max_steps=5).train()

    def older(saved: dict[str, Any]) -> None:
        for key in ("rollout_solver", "optimizer", "route_per", "compile", "sharding"):
            del saved["run"][key]
        saved["run"]["query"] = {"alpha": 5.0, "beta": 2.0}

    edit_state(tmp_path / "run/checkpoints/step-00000005/state.json", older)
    with pytest.raises(ConfigError, match=r"query\.index=nothing but 2 is asked for"):
        make_trainer(query={"index": 2}).train()
    with pytest.raises(ConfigError, match=r"rollout_solver='euler' but 'ab2' is asked for"):
        make_trainer(rollout_solver="ab2").train()
    with pytest.raises(ConfigError, match=r"query\.alpha=5\.0 but 1\.0 is asked for"):
        make_trainer(query="uniform").train()
    with pytest.raises(ConfigError, match=r"route_per='sample' but 'update' is asked for"):
        make_trainer(route_per="update").train()
    assert make_trainer(query="low", rollout_batch_size="auto").train().step == 12


def test_the_page_names_what_may_change() -> None:
    page = (ROOT / "docs" / "resuming.md").read_text()
    told = page.partition("## What may change\n")[2].partition("Anything else")[0]
    named = set(re.findall(r"`([a-z_.]+)`", told)) - {"auto"}
    split = {"batch_size", "gradient_accumulation_steps"}  # and the number of processes
    assert named == same_run._MAY_CHANGE | split | {"max_steps"}


def test_data_that_has_grown_is_another_run(
    make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_trainer().train()
    rows = TinyFamily.data
    monkeypatch.setattr(TinyFamily, "data", lambda self, spec, **kw: rows(self, str(int(spec) + 1)))
    with pytest.raises(ConfigError, match=r"rows\.0=7 but 8"):
        make_trainer().train()


def test_a_longer_run_with_a_constant_rate_is_the_same_run(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    make_trainer(max_steps=7).train()
    assert make_trainer(max_steps=12, save_every=4, keep_checkpoints=1, log_every=1).train().step == 12
    make_trainer(output_dir=tmp_path / "whole").train()
    assert bits(tmp_path / "run", 12) == bits(tmp_path / "whole", 12)
    with pytest.raises(ConfigError, match="max_steps=9 is less than the 12 updates"):
        make_trainer(max_steps=9).train()


def test_a_schedule_that_ends_at_max_steps_fixes_it(make_trainer: MakeTrainer) -> None:
    make_trainer(max_steps=7, lr_schedule="linear").train()
    with pytest.raises(ConfigError, match="max_steps=7 but 12"):
        make_trainer(max_steps=12, lr_schedule="linear").train()


def test_a_finished_run_only_exports_again(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    make_trainer().train()
    metrics = (tmp_path / "run/metrics.jsonl").read_bytes()
    student = tmp_path / "run/student.safetensors"
    bits = student.read_bytes()
    student.unlink()
    result = make_trainer().train()
    assert (result.step, result.exported) == (12, student)
    assert student.read_bytes() == bits
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == metrics


@pytest.mark.parametrize("split", [(3, 4), (12, 1), (4, 3), (1, 12)])
def test_another_split_of_the_same_batch_is_the_same_run_to_rounding(
    make_trainer: MakeTrainer, tmp_path: Path, split: tuple[int, int]
) -> None:
    size, passes = split
    settings: dict[str, Any] = {"ema_decay": 0.9, "drop_condition": 0.3}
    make_trainer(output_dir=tmp_path / "whole", batch_size=6, **settings).train()
    make_trainer(batch_size=6, max_steps=5, **settings).train()
    resumed = make_trainer(
        batch_size=size, gradient_accumulation_steps=passes, rollout_batch_size=5, **settings
    )
    assert resumed.train().step == 12
    for name in ("student", "ema", "optimizer"):
        part = f"checkpoints/step-00000012/{name}.safetensors"
        ours, whole = load_file(tmp_path / "run" / part), load_file(tmp_path / "whole" / part)
        for key, value in whole.items():
            torch.testing.assert_close(ours[key], value, rtol=1e-4, atol=1e-5)
    for ours, whole in zip(comparable(tmp_path / "run"), comparable(tmp_path / "whole"), strict=True):
        assert ours.keys() == whole.keys() and ours["samples"] == whole["samples"]
        assert ours["loss"] == pytest.approx(whole["loss"], rel=1e-5)
    with pytest.raises(ConfigError, match=r"batch_size=\d+ but 7 is asked for"):
        make_trainer(batch_size=7, **settings).train()


def test_metrics_after_the_checkpoint_are_cut_and_foreign_lines_kept(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\nnote\n{"step": 2}\n{"step": 3}\n{"st')
    with MetricsFile(path, last_step=2) as metrics:
        metrics.append({"step": 3, "loss": 1.0})
    assert path.read_bytes() == b'{"step": 1}\nnote\n{"step": 2}\n{"step": 3, "loss": 1.0}\n'


def test_a_run_that_has_diverged_goes_on_as_it_says(
    make_trainer: MakeTrainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = make_trainer()
    good = trainer.teachers[0]
    put_in_place(trainer, 0, lambda *given: good(*given) * (float("nan") if trainer.step == 7 else 1.0))
    with pytest.raises(DivergedError) as caught:
        trainer.train()
    checkpoint = tmp_path / "run/checkpoints/step-00000007"
    assert f"with learning_rate=0.005 --resume-from {checkpoint} added" in str(caught.value)
    with pytest.raises(ConfigError, match=r"learning_rate=0.01 but 0.005 is asked for: .*--resume-from"):
        make_trainer(learning_rate=0.005).train()
    with pytest.raises(ConfigError, match="seed=0 but 1"):
        make_trainer(learning_rate=0.005, seed=1).train(resume=checkpoint)
    capsys.readouterr()

    changed: dict[str, Any] = {"learning_rate": 0.005, "max_grad_norm": 0.5}
    assert make_trainer(**changed, max_steps=9).train(resume=checkpoint).step == 9
    told = capsys.readouterr().err
    assert "going on after update 7 with learning_rate=0.005 in place of 0.01, max_grad_norm=0.5" in told
    assert make_trainer(**changed).train().step == 12
    assert "going on after" not in capsys.readouterr().err
    lines = comparable(tmp_path / "run")
    assert [line["learning_rate"] for line in lines] == [0.01] * 7 + [0.005] * 5
    (note,) = load_checkpoint(list_checkpoints(tmp_path / "run/checkpoints")[-1]).made_of["changed"]
    assert note["after"] == 7 and note["settings"]["learning_rate"] == [0.01, 0.005]
