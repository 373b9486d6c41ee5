"""An update whose numbers are not finite, told with the command that gets around it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from danceopd.training.config import TrainConfig
from danceopd.training.errors import DivergedError
from danceopd.training.run_folder import CHECKPOINTS


def check_finite(line: Mapping[str, Any], config: TrainConfig) -> None:
    """Raise DivergedError where the loss or the gradient of an update is not finite.

    Args:
        line: what metrics are to say of the update; its student has not been stepped yet.
        config: of the run.
    """
    for key in ("loss", "grad_norm"):
        if math.isfinite(line[key]):
            continue
        worst = [name for name, loss in line["losses"].items() if not math.isfinite(loss)]
        where = f" on route '{worst[0]}'" if worst else ""
        done, rate = line["step"] - 1, config.learning_rate
        cure = f"no update was made yet; start again with a learning_rate lower than {rate}"
        if done:
            saved = Path(config.output_dir) / CHECKPOINTS / f"step-{done:08d}"
            cure = (
                f"the state before it is saved; go on from there with a learning_rate lower than {rate}, by "
                f"the same command with learning_rate={rate / 2:g} --resume-from {shlex.quote(str(saved))} "
                "added"
            )
        raise DivergedError(
            f"{key} became {line[key]} in update {line['step']}{where}: {cure}, or look at what that teacher "
            "returns."
        )
