"""The clipped objective of Flow-OPD (arXiv 2605.08043)."""

from __future__ import annotations

import torch
from torch.compiler import is_dynamo_compiling

from danceopd.ops import _backend, _checks, _library, _native, reference  # noqa: F401  (registers the ops)
from danceopd.ops._attach import attach_policy


def policy_loss(
    log_prob: torch.Tensor,
    old_log_prob: torch.Tensor,
    advantage: torch.Tensor,
    *,
    clip_range: float = 1e-4,
    advantage_clip: float = 5.0,
) -> torch.Tensor:
    """The mean of `max(-A r, -A clamp(r, 1 - clip_range, 1 + clip_range))`.

    With `r = exp(log_prob - old_log_prob)` and `A = clamp(advantage, -advantage_clip, advantage_clip)`;
    Flow-OPD's advantage is `-transition_kl(mean, teacher_mean, std)` of the step that was taken.

    Args:
        log_prob: of the transitions under the student being trained, [B] or with more dimensions; see
            `sde_step`.
        old_log_prob: of the same transitions under the student that made them, a constant of the same shape.
            Compute both from the same float32 sample.
        advantage: how good each transition was, a constant of the same shape.
        clip_range: beyond this distance of `r` from 1 a transition adds no gradient; in (0, 1).
        advantage_clip: bound of the advantage, above 0.

    Returns:
        A scalar in float32 (float64 for float64), differentiable (once) with respect to `log_prob`. The same
        bits whatever the number of threads.

    Raises:
        TypeError, ValueError: for arguments that do not fit; the message names the one.
    """
    if _backend.native and not is_dynamo_compiling():
        learns = torch.is_grad_enabled() and isinstance(log_prob, torch.Tensor) and log_prob.requires_grad
        made = True if learns and log_prob.is_cpu else None  # as in velocity_mse
        fast: tuple[torch.Tensor, torch.Tensor | None] | None = _native.policy_loss(
            False, log_prob, old_log_prob, advantage, clip_range, advantage_clip, 1.0, made
        )
        if fast is not None:
            if not learns:
                return fast[0]
            return attach_policy(log_prob, *fast, old_log_prob, advantage, clip_range, advantage_clip)
    if not _backend.takes_native(log_prob, old_log_prob, advantage):
        return reference.policy_loss(
            log_prob, old_log_prob, advantage, clip_range=clip_range, advantage_clip=advantage_clip
        )
    bounds = _checks.policy(log_prob, old_log_prob, advantage, clip_range, advantage_clip)
    result: torch.Tensor = torch.ops.danceopd.policy_loss(log_prob, old_log_prob, advantage, *bounds)
    return result
