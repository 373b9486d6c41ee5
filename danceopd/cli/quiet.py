"""Other packages' warnings at import that say nothing about a run.

diffusers imports PEFT and transformers, and those torchao where it is installed, which no model here hangs
on. What these loggers report then, libraries that torchao was not built for on this machine, reads like an
error of the command that was typed. An application may choose what its terminal shows; who imports danceopd
as a library sees everything.
"""

from __future__ import annotations

import logging
from typing import Final

_NOISY: Final = (
    "torchao",
    "diffusers.quantizers.torchao.torchao_quantizer",
    "torch.utils._pytree",
    "transformers.utils.import_utils",  # that image processors are the ones that need no torchvision
)


def quiet_imports() -> None:
    """Let these packages report errors only."""
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
