"""Two experts that are LoRAs of one base, into one student that can do what both can.

    python examples/distil_two_loras.py                  # a minute or two on one CPU core
    python examples/distil_two_loras.py --method soft    # the same budget, another method

Runs in the embedded miniature world, whose experts are shipped and whose scorer is exact. With a real family
the names change, and opd.sample or `danceopd eval --benchmark` takes the scorer's place: see the comment
before the training starts.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import danceopd as opd
from danceopd import shapesworld


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, then score the experts and the student on both grounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--out", default="runs/two-loras", help="folder of the run; the same one continues it"
    )
    parser.add_argument("--method", default="danceopd", help="how the student learns")
    parser.add_argument("--updates", type=int, default=520)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--prompts", type=int, default=16, help="test tasks per category")
    args = parser.parse_args(arguments)

    family = shapesworld.ShapesWorldFamily()  # what opd.load_family("shapesworld") gives
    # Both adapters sit on one base, which is in memory once.
    teachers = [opd.Teacher("local", lora="local"), opd.Teacher("global", lora="global")]
    trainer = opd.DanceOPDTrainer(
        family=family,
        teachers=teachers,
        # The local expert is asked on local edits, the global one on global edits.
        routes=[opd.Route("local", data="local"), opd.Route("global", data="global")],
        config=opd.TrainConfig(
            output_dir=args.out,
            method=args.method,
            student=opd.StudentConfig(init={"local": 1.0, "global": 0.35}),
            max_steps=args.updates,
            batch_size=args.batch_size,
            gradient_accumulation_steps=1,
            num_rollout_steps=4,
            learning_rate=2e-3,
        ),
    )
    # A real family, teacher and route, as docs/quickstart.md has them whole:
    #     opd.load_family("path/to/stable-diffusion-3.5-medium", dtype=torch.bfloat16, device="cuda")
    #     opd.Teacher("realism", lora="path/to/realism.safetensors")
    #     opd.Route("realism", data="path/to/portraits.csv")
    trainer.train()

    print(f"{'percent fulfilled':20}{'local':>8}{'global':>8}")
    fields = {teacher.name: family.teacher(teacher) for teacher in teachers}
    fields[args.out] = opd.load_student(args.out).field
    for name, field in fields.items():
        scores = shapesworld.evaluate(family, field, ["local", "global"], prompts=args.prompts)
        shares = [100 * scores.ground(ground) for ground in ("local", "global")]
        print(f"{name:20}{shares[0]:8.0f}{shares[1]:8.0f}")


if __name__ == "__main__":
    main()
