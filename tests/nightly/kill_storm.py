"""Kill trainings of the miniature world at random moments, and see that nothing is lost and no bit changes.

    python tests/nightly/kill_storm.py --kills 200 --seed 0

A run of a few updates with EMA and dropped prompts is trained once without disturbance. The same run is then
started over and over and killed with SIGKILL: half of the kills fall anywhere (also into loading, into the
first files of the folder, into the export), half into the writing of a checkpoint. After each kill every
checkpoint in the folder must load whole, no update that was saved may be lost, and the next start continues.
When a run comes to its end, its weights, optimizer, running mean, export and metrics outside `time` must be
those of the undisturbed run, bit for bit; then a new one begins, until all kills are spent.

The moments follow from the seed, where they fall in a process does not: each kill is another test, and each
must pass. The parent imports everything once and forks its trainings, so that a start costs little.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

import danceopd.training.trainer as trainer_module
from danceopd.shapesworld import ShapesWorldFamily
from danceopd.training import (
    DanceOPDTrainer,
    Route,
    Teacher,
    TrainConfig,
    list_checkpoints,
    load_checkpoint,
    read_metrics,
)

UPDATES = 8
ROUTES = (Route("base", data="t2i"), Route("local", data="local"))
TEACHERS = (Teacher("base"), Teacher("local", checkpoint="local"))


def train(folder: Path) -> None:
    """The run, from wherever it stands in `folder`."""
    config = TrainConfig(
        output_dir=folder,
        max_steps=UPDATES,
        batch_size=2,
        gradient_accumulation_steps=1,
        num_rollout_steps=2,
        learning_rate=1e-3,
        ema_decay=0.9,
        drop_condition=0.3,
        save_every=2,
        progress=False,
    )
    family = ShapesWorldFamily()
    DanceOPDTrainer(family=family, teachers=TEACHERS, routes=ROUTES, config=config).train()


def outcome(folder: Path) -> dict[str, bytes]:
    """All that a finished run leaves and that follows from its settings."""
    last = folder / f"checkpoints/step-{UPDATES:08d}"
    files = [*sorted(last.glob("*.safetensors")), folder / "student.safetensors"]
    found = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    lines = read_metrics(folder / "metrics.jsonl")
    told = [{key: value for key, value in line.items() if key != "time"} for line in lines]
    return {**found, "metrics": json.dumps(told).encode()}


def forked(work: Callable[[int], None]) -> tuple[int, int]:
    """Start `work` in a child, which may tell moments on the pipe that it is given; its id, and the pipe."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return child, reading
    status = 1
    try:
        os.close(reading)
        work(writing)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def train_and_tell(folder: Path, pipe: int) -> None:
    """`train` that writes a byte whenever it begins to write a checkpoint."""
    save = trainer_module.save_checkpoint

    def telling(*arguments: object) -> Path:
        os.write(pipe, b"s")
        return save(*arguments)  # type: ignore[arg-type]

    trainer_module.save_checkpoint = telling  # type: ignore[assignment]
    train(folder)


def killed(folder: Path, wait: float, in_a_save: int) -> bool:
    """Train and kill after `wait` seconds from the start, or from the beginning of save number `in_a_save`;
    whether it hit."""
    child, pipe = forked(lambda pipe: train_and_tell(folder, pipe))
    for _ in range(in_a_save):
        os.read(pipe, 1)  # empty when the child has come to its end
    time.sleep(wait)
    os.kill(child, signal.SIGKILL)  # also of one that has ended and waits to be asked how
    os.close(pipe)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in (0, -signal.SIGKILL):
        raise SystemExit(f"a training ended with exit code {code} instead of going on")
    return code != 0


def check_left(folder: Path, saved: int) -> int:
    """That all checkpoints are whole and none was lost; the step of the newest."""
    paths = list_checkpoints(folder / "checkpoints")
    newest = max((load_checkpoint(path).step for path in paths), default=0)
    if newest < saved:
        raise SystemExit(f"the checkpoint of update {saved} was there and is lost")
    return newest


def storm(folder: Path, kills: int, seed: int) -> dict[str, object]:
    """`kills` kills; what they hit. Ends the process with a sentence when something is lost or different."""
    chance = random.Random(seed)
    began = time.perf_counter()
    train(folder / "whole")
    whole_seconds = time.perf_counter() - began
    expected = outcome(folder / "whole")

    hits: Counter[str] = Counter()
    runs, saved, run = 0, 0, folder / "run"
    while sum(hits.values()) < kills:
        if chance.random() < 0.5:
            hit = killed(run, chance.uniform(0.0, whole_seconds), 0)
            kind = "anywhere"
        else:
            hit = killed(run, chance.uniform(0.0, 0.03), chance.randint(1, 2))
            kind = "in a save"
        if hit:
            half = any(run.glob("checkpoints/.*"))
            hits[f"{kind}, {'with' if half else 'without'} half a checkpoint left"] += 1
        saved = check_left(run, saved)
        if not hit:  # it came to its end first
            runs += 1
            differs = [name for name, content in expected.items() if outcome(run).get(name) != content]
            if differs:
                raise SystemExit(f"run {runs} differs from the undisturbed one in {', '.join(differs)}")
            shutil.rmtree(run)
            saved = 0
    child, pipe = forked(lambda pipe: train(run))
    os.close(pipe)
    if os.waitpid(child, 0)[1] or outcome(run) != expected:
        raise SystemExit("the last run failed, or differs from the undisturbed one")
    return {"kills": dict(hits), "runs": runs + 1, "seconds": round(time.perf_counter() - began, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # threads do not survive a fork
    with tempfile.TemporaryDirectory() as folder:
        seen = storm(Path(folder), arguments.kills, arguments.seed)
    print(json.dumps(seen))


if __name__ == "__main__":
    sys.exit(main())
