"""How long processes wait for each other, and who is named when one of them never comes."""

from __future__ import annotations

import math
import os
import re
from datetime import timedelta
from typing import Final

import torch.distributed as dist

from danceopd.settings import ConfigError

VARIABLE: Final = "DANCEOPD_RANK_TIMEOUT"
_MINUTES: Final = 30.0
_ANSWER: Final = timedelta(minutes=1)  # those that waited gave up almost at once


def rank_timeout() -> timedelta:
    """How long a rank waits for another in an update, with what rank 0 does between updates.

    Thirty minutes, or as many as the environment variable DANCEOPD_RANK_TIMEOUT says.

    Raises:
        ConfigError: it says no positive number.
    """
    text = os.environ.get(VARIABLE, str(_MINUTES))
    try:
        minutes = float(text)
    except ValueError:
        minutes = math.nan
    if not 0.0 < minutes < math.inf:
        raise ConfigError(
            f"{VARIABLE}='{text}' is no number of minutes above 0: set one, such as 10, or unset it."
        )
    return timedelta(minutes=minutes)


class RollCall:
    """Finds who is missing once a wait is over; made by all ranks while all are there.

    Args:
        timeout: of the wait.
    """

    def __init__(self, timeout: timedelta) -> None:
        self._patience = min(timeout, _ANSWER)
        # A group whose connections are whole: gloo closes those of the one in which a wait was given up.
        self._group = dist.new_group(backend="gloo", timeout=self._patience)

    def missing(self) -> str:
        """Who does not answer, in a sentence; only rank 0 can tell, and the others say so."""
        try:
            dist.monitored_barrier(self._group, self._patience, wait_all_ranks=True)
        except RuntimeError as error:
            named = re.search(r"Ranks ([\d, ]+) failed to pass", str(error))
            if named is None:
                return "rank 0 tells which; where it says nothing, it is the one"
            return f"no answer from rank {named[1].strip()}"
        return "all answer again"


def is_timeout(error: BaseException) -> bool:
    """Whether gloo gave up waiting, while no connection was closed."""
    return "Timed out waiting" in str(error)
