"""Ways to make one student of several fields; each module reads like its paper."""

from danceopd.methods.base import Batch, Limits, Method, Teachers, UpdateResult
from danceopd.methods.danceopd import DanceOPD
from danceopd.methods.diffusionopd import DiffusionOPD
from danceopd.methods.flowopd import FlowOPD
from danceopd.methods.merge import add_differences, merge_weights
from danceopd.methods.offpolicy import OffPolicy
from danceopd.methods.registry import METHODS, make_method
from danceopd.methods.sft import SFT
from danceopd.methods.soft import Soft

__all__ = [
    "METHODS",
    "SFT",
    "Batch",
    "DanceOPD",
    "DiffusionOPD",
    "FlowOPD",
    "Limits",
    "Method",
    "OffPolicy",
    "Soft",
    "Teachers",
    "UpdateResult",
    "add_differences",
    "make_method",
    "merge_weights",
]
