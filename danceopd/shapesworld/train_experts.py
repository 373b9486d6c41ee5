"""Make the shipped experts: `python -m danceopd.shapesworld.train_experts [NAME ...] --out FOLDER`.

Plain conditional flow matching on rendered scenes, on one CPU thread. The base learns text-to-image; the edit
experts are LoRAs on it that learn only their own ground, which is what makes them forget the others. Every
row, noise level and noise tensor follows from seed and update, so a run that is stopped goes on where it was,
to the same bits.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .experts import write_weights
from .family import ShapesWorldFamily
from .lora import add_lora, file_name, linear_layers, lora_metadata
from .model import ShapesCondition, build_model, predict
from .render import render
from .tasks import EDIT_CATEGORIES, GLOBAL_CATEGORIES, LOCAL_CATEGORIES, T2I_CATEGORIES, TaskSet


@dataclass(frozen=True)
class Recipe:
    """How one expert is made.

    Attributes:
        categories: what its rows ask for, in turn; a category named twice is drawn twice as often.
        init: the expert it starts from, or None for random weights.
        cycles: updates of each cycle; in every cycle the learning rate rises, stays and falls once.
        learning_rate: AdamW's, between warm-up and decay.
        batch_size: rows of one update.
        warmup: updates over which the learning rate rises linearly.
        decay: the last share of a cycle, in (0, 1], over which the learning rate falls linearly to zero.
        sigma_shift: noise levels are uniform draws pushed towards noise by this shift; 1 leaves them uniform.
        drop_prompt: share of rows that lose their prompt, for classifier-free guidance.
        ema: decay of the running mean of the weights, which is what the expert becomes.
        rank: of the LoRA that is trained on the frozen weights of `init`; None trains all weights.
    """

    categories: tuple[str, ...]
    init: str | None
    cycles: tuple[int, ...]
    learning_rate: float = 2e-3
    batch_size: int = 48
    warmup: int = 200
    decay: float = 0.3
    sigma_shift: float = 2.5
    drop_prompt: float = 0.1
    ema: float = 0.999
    rank: int | None = None

    @property
    def updates(self) -> int:
        """Optimizer steps in all."""
        return sum(self.cycles)


# The categories that bind words to places and to each other take longest: the base sees them twice as often.
_BASE = (*T2I_CATEGORIES, "position", "colour-attribution")


def _adapter(categories: tuple[str, ...], updates: int) -> Recipe:
    return Recipe(categories, init="base", cycles=(updates,), learning_rate=4e-3, warmup=100, rank=32)


RECIPES: Mapping[str, Recipe] = {
    "base": Recipe(_BASE, init=None, cycles=(24_000, 16_000)),
    "local": _adapter(LOCAL_CATEGORIES, updates=4_000),
    "global": _adapter(GLOBAL_CATEGORIES, updates=3_500),
    "edit": _adapter(EDIT_CATEGORIES, updates=5_000),
}


def learning_rate(recipe: Recipe, update: int) -> float:
    """Learning rate of an update, counted from 0: per cycle a rise, a plateau, a fall to zero."""
    begin = 0
    for length in recipe.cycles:
        place = update - begin
        if place < length:
            fall = length * recipe.decay
            return recipe.learning_rate * min(1.0, (place + 1) / recipe.warmup, (length - place) / fall)
        begin += length
    raise ValueError(f"update must be in 0..{recipe.updates - 1}, but got {update}.")


def flow_matching_loss(model: nn.Module, recipe: Recipe, rows: TaskSet, place: int) -> Tensor:
    """Mean squared error between predicted and true velocity eps - x0, on what is drawn at a place."""
    stream = torch.Generator().manual_seed(place)
    first = place * recipe.batch_size
    tasks = [rows[(first + slot) % len(rows)] for slot in range(recipe.batch_size)]
    dropped = torch.rand(len(tasks), generator=stream) < recipe.drop_prompt
    prompts = ["" if drop else task.prompt for task, drop in zip(tasks, dropped.tolist(), strict=True)]
    scenes = [task.source for task in tasks if task.source is not None]
    sources: Sequence[Tensor | None] = list(render(scenes)) if scenes else [None] * len(tasks)
    clean = render([task.target for task in tasks])

    noise = torch.randn(clean.shape, generator=stream)
    sigma = torch.rand(len(tasks), generator=stream)
    sigma = recipe.sigma_shift * sigma / (1 + (recipe.sigma_shift - 1) * sigma)
    sample = torch.lerp(clean, noise, sigma[:, None, None, None])
    velocity = predict(model, sample, sigma, ShapesCondition.from_prompts(prompts, sources))
    return nn.functional.mse_loss(velocity, noise - clean)


# A seed's draws are those that seed 0 would come to after this many updates.
_SEED_STRIDE = 1_000_000


class ExpertRun:
    """One expert in the making: its weights, their running mean, AdamW, and how far it is.

    Args:
        name: of the expert, and of its files.
        recipe: how it is made.
        folder: holds the expert that `recipe.init` names, and gets this one.
        seed: of the initial weights and of everything drawn, 0..999.

    Raises:
        ValueError: the expert to start from is not in `folder`, or what is there cannot be continued.
    """

    def __init__(self, name: str, recipe: Recipe, folder: Path, *, seed: int = 0) -> None:
        self.name, self.recipe, self.folder, self.seed = name, recipe, folder, seed
        self.model = build_model(seed) if recipe.init is None else _load_init(folder, recipe.init)
        self.model.requires_grad_(recipe.rank is None)
        if recipe.rank is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                add_lora(
                    self.model,
                    name,
                    rank=recipe.rank,
                    alpha=float(recipe.rank),
                    layers=list(linear_layers(self.model)),
                )
        self.trained = {key: p for key, p in self.model.named_parameters() if p.requires_grad}
        self.average = {key: parameter.detach().clone() for key, parameter in self.trained.items()}
        self.optimizer = torch.optim.AdamW(
            self.trained.values(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.0
        )
        self.rows = TaskSet(recipe.categories, "train")
        self.update = 0
        self.seconds = 0.0
        if self.resume_file.exists():
            self._resume()

    @property
    def resume_file(self) -> Path:
        """What a stopped run goes on from."""
        return self.folder / f"{self.name}.resume.pt"

    def step(self) -> float:
        """One update; returns its loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, self.update)
        place = self.seed * _SEED_STRIDE + self.update
        loss = flow_matching_loss(self.model, self.recipe, self.rows, place)
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained.values(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.update += 1
        # The mean forgets its random start quickly: its memory grows with the run up to 1 / (1 - ema).
        share = max(1.0 - self.recipe.ema, 1.0 / (1 + self.update))
        with torch.no_grad():
            for key, parameter in self.trained.items():
                self.average[key].lerp_(parameter, share)
        return loss.item()

    def save(self) -> None:
        """Write what a later run goes on from; the file is whole at every moment."""
        state = {
            "made_with": self._made_with(),
            "trained": {key: parameter.detach() for key, parameter in self.trained.items()},
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "update": self.update,
            "seconds": self.seconds,
        }
        part = self.resume_file.with_suffix(".part")
        torch.save(state, part)
        os.replace(part, self.resume_file)

    def export(self) -> Path:
        """Write the running mean as the expert, in bfloat16, with the story of its making as metadata."""
        tensors = {key: mean.to(torch.bfloat16) for key, mean in self.average.items()}
        story = {
            "expert": self.name,
            "seed": str(self.seed),
            "updates": str(self.update),
            "seconds": str(round(self.seconds)),
        }
        path, rank = self.folder / f"{self.name}.safetensors", self.recipe.rank
        if rank is None:
            return write_weights(path, tensors, {"kind": "full", **story})
        tensors = {file_name(key, self.name): mean for key, mean in tensors.items()}
        about = {"kind": "lora", "base": f"{self.recipe.init}.safetensors"}  # the file beside it
        about |= lora_metadata(rank, rank, list(linear_layers(self.model)))
        return write_weights(path, tensors, about | story)

    def _resume(self) -> None:
        cure = f"remove {self.resume_file} to start anew."
        try:
            state = torch.load(self.resume_file, weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise ValueError(f"{self.resume_file} cannot be read; {cure}") from error
        if state.get("made_with") != self._made_with():
            raise ValueError(f"{self.resume_file} is of another recipe or seed; {cure}")
        with torch.no_grad():
            for key, parameter in self.trained.items():
                parameter.copy_(state["trained"][key])
        self.average = state["average"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.update, self.seconds = state["update"], state["seconds"]

    def _made_with(self) -> dict[str, Any]:
        return {"seed": self.seed, **asdict(self.recipe)}


def train(name: str, recipe: Recipe, folder: Path, *, seed: int = 0, save_every: int = 1000) -> Path:
    """Train one expert, or go on with it, and return the path of the finished safetensors file.

    Prints one JSON line per `save_every` updates: the mean loss since the last line and the seconds so far.

    Raises:
        ValueError: as `ExpertRun`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = ExpertRun(name, recipe, folder, seed=seed)
    before, losses = run.seconds, list[float]()
    started = time.monotonic()
    while run.update < recipe.updates:
        losses.append(run.step())
        if run.update % save_every == 0 or run.update == recipe.updates:
            run.seconds = before + time.monotonic() - started
            run.save()
            loss = round(sum(losses) / len(losses), 5)
            line = {"expert": name, "update": run.update, "loss": loss, "seconds": round(run.seconds, 1)}
            print(json.dumps(line), flush=True)
            losses.clear()
    return run.export()


def _load_init(folder: Path, expert: str) -> nn.Module:
    path = folder / f"{expert}.safetensors"
    if not path.is_file():
        raise ValueError(f"{path} is not there, and this expert starts from it; train {expert!r} first.")
    return ShapesWorldFamily().full_model(str(path))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; a user's mistake ends in one sentence and exit code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m danceopd.shapesworld.train_experts",
        description="Train the experts that ship with ShapesWorld, each on one CPU thread. The same command "
        "continues a run that was stopped.",
        epilog="On a server core an update of the base takes about 0.12 s, and one of an edit expert, whose "
        "sources are tokens too, about 0.25 s: just under an hour for the base, 15 to 20 minutes for each "
        "of the others. What an expert took is in its file's metadata; "
        "`danceopd eval FOLDER/NAME.safetensors` scores it.",
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"experts to train, in this order: {', '.join(RECIPES)} (all when none is named); "
        "local, global and edit start from the base in FOLDER",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="gets NAME.safetensors, and NAME.resume.pt to continue from",
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights and data (default: 0, as shipped)")
    options = parser.parse_args(arguments)
    if not 0 <= options.seed < 1000:
        parser.error(f"--seed must be in 0..999, but got {options.seed}.")
    unknown = [name for name in options.names if name not in RECIPES]
    if unknown:
        parser.error(f"expert {unknown[0]!r} is unknown; choose from {', '.join(RECIPES)}.")
    torch.set_num_threads(1)
    try:
        for name in options.names or RECIPES:
            train(name, RECIPES[name], options.out, seed=options.seed)
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
