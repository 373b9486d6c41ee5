"""A callback of your own: score every checkpoint, and keep a copy of the best one.

    python examples/keep_the_best.py                      # a minute or two on one CPU core

A callback is told of updates, pictures, checkpoints and the end. What it draws from torch's generators
changes no bit of the training, because every update is seeded by itself; a callback that raises ends the run
like any other error, with the state saved.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import danceopd as opd
from danceopd import shapesworld
from danceopd.training import TrainResult
from danceopd.training.callbacks import Trainer


class KeepTheBest(opd.Callback):
    """Copies the checkpoint with the best score on validation tasks to ``best`` in the run's folder.

    Args:
        grounds: what to score.
        prompts: tasks per category.
    """

    def __init__(self, grounds: Sequence[str], prompts: int) -> None:
        self.grounds = grounds
        self.prompts = prompts
        self.best = -1.0

    def on_start(self, trainer: Trainer) -> None:
        """Keep what is needed later; the trainer's `field` is the student as it is trained."""
        self.trainer = trainer

    def on_save(self, path: Path) -> None:
        """Score the student as it is in the checkpoint."""
        family = self.trainer.family
        assert isinstance(family, shapesworld.ShapesWorldFamily)
        scores = shapesworld.evaluate(
            family, self.trainer.field, self.grounds, prompts=self.prompts, num_steps=4, split="validation"
        )
        print(f"{path.name}: {100 * scores.mean:.0f} % of the validation tasks")
        if scores.mean > self.best:
            self.best = scores.mean
            shutil.rmtree(path.parents[1] / "best", ignore_errors=True)
            shutil.copytree(path, path.parents[1] / "best")

    def on_end(self, result: TrainResult) -> None:
        """Say where it is."""
        print(f"the best, {100 * self.best:.0f} %, is in {result.output_dir / 'best'}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train with the callback."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", default="runs/keep-the-best")
    parser.add_argument("--updates", type=int, default=520)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--save-every", type=int, default=100)
    parser.add_argument("--prompts", type=int, default=8, help="validation tasks per category")
    args = parser.parse_args(arguments)

    trainer = opd.DanceOPDTrainer(
        family=opd.load_family("shapesworld"),
        teachers=[opd.Teacher("local", lora="local"), opd.Teacher("global", lora="global")],
        routes=[opd.Route("local", data="local"), opd.Route("global", data="global")],
        config=opd.TrainConfig(
            output_dir=args.out,
            student=opd.StudentConfig(init={"local": 1.0, "global": 0.35}),
            max_steps=args.updates,
            save_every=args.save_every,
            batch_size=args.batch_size,
            gradient_accumulation_steps=1,
            num_rollout_steps=4,
            learning_rate=2e-3,
        ),
        callbacks=[KeepTheBest(["local", "global"], args.prompts)],
    )
    trainer.train()


if __name__ == "__main__":
    main()
