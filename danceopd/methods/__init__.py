"""Ways to make one student of several fields; each module reads like its paper."""

from danceopd.methods.danceopd import Batch, UpdateResult, match, update
from danceopd.methods.merge import add_differences, merge_weights

__all__ = ["Batch", "UpdateResult", "add_differences", "match", "merge_weights", "update"]
