"""Ways to make one student of several fields; each module reads like its paper."""

from danceopd.methods.danceopd import Batch, UpdateResult, match, update
from danceopd.methods.merge import merge_weights

__all__ = ["Batch", "UpdateResult", "match", "merge_weights", "update"]
