"""The ops as torch knows them, `torch.ops.danceopd.*`: schema, kernels, fake result and autograd, together.

A coefficient travels as a pair: `sigma` is the float, unless `sigma_each` holds one value per sample.
"""

from danceopd.ops._library import fields, losses, policy, steps, transitions

__all__ = ["fields", "losses", "policy", "steps", "transitions"]
