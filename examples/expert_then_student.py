"""Train an expert on data, then distil it with another one into a student.

    python examples/expert_then_student.py                # minutes on one CPU core; --updates 50 for a look

The expert is a LoRA on the base, by plain flow matching (`method: sft`) on rows that have a target. What a
run leaves is a teacher of the next run.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import danceopd as opd
from danceopd import shapesworld


def main(arguments: Sequence[str] | None = None) -> None:
    """Both runs, and the scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/expert-then-student"))
    parser.add_argument("--updates", type=int, default=600, help="of each run")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--prompts", type=int, default=16, help="test tasks per category")
    args = parser.parse_args(arguments)
    expert, student = str(args.out / "expert"), str(args.out / "student")
    numbers = {
        "max_steps": args.updates,
        "batch_size": args.batch_size,
        "gradient_accumulation_steps": 1,
        "learning_rate": 2e-3,
        "lr_schedule": "linear",
    }
    family = shapesworld.ShapesWorldFamily()  # what opd.load_family("shapesworld") gives

    opd.DanceOPDTrainer(
        family=family,
        teachers=[],  # the data is what teaches
        routes=[opd.Route("global", data="global")],
        config=opd.TrainConfig(
            output_dir=expert, method="sft", student=opd.StudentConfig(kind="lora", rank=32), **numbers
        ),
    ).train()

    opd.DanceOPDTrainer(
        family=family,
        teachers=[opd.Teacher("local", lora="local"), opd.Teacher("mine", lora=expert)],
        routes=[opd.Route("local", data="local"), opd.Route("mine", data="global")],
        config=opd.TrainConfig(
            output_dir=student,
            student=opd.StudentConfig(init={"local": 1.0, expert: 0.35}),
            num_rollout_steps=4,
            **numbers,
        ),
    ).train()

    print(f"{'percent fulfilled':40}{'local':>8}{'global':>8}")
    for name in ("local", expert, student):
        scores = shapesworld.evaluate(family, family.field(name), ["local", "global"], prompts=args.prompts)
        print(f"{name:40}{100 * scores.ground('local'):8.0f}{100 * scores.ground('global'):8.0f}")


if __name__ == "__main__":
    main()
