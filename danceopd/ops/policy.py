"""The clipped objective of Flow-OPD (arXiv 2605.08043)."""

from __future__ import annotations

import torch

from danceopd.ops import _checks


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
    Flow-OPD's advantage is `-transition_kl(mean, teacher_mean, std)` of the step that was taken. Plain torch
    on every device: one number per transition is too little for a kernel to gain anything.

    Args:
        log_prob: of the transitions under the student being trained, [B] or with more dimensions; see
            `sde_step`.
        old_log_prob: of the same transitions under the student that made them, a constant of the same shape.
            Compute both from the same float32 sample.
        advantage: how good each transition was, a constant of the same shape.
        clip_range: beyond this distance of `r` from 1 a transition adds no gradient; in (0, 1).
        advantage_clip: bound of the advantage, above 0.

    Returns:
        A scalar in float32 (float64 for float64), differentiable with respect to `log_prob`.

    Raises:
        TypeError, ValueError: for arguments that do not fit; the message names the one.
    """
    _checks.first("log_prob", log_prob)
    for name, tensor in (("old_log_prob", old_log_prob), ("advantage", advantage)):
        _checks.like(name, tensor, "log_prob", log_prob)
        _checks.constant(name, tensor)
    reach = _checks.number("clip_range", clip_range)
    if not 0.0 < reach < 1.0:
        raise ValueError(f"clip_range is {clip_range}; pass a value between 0 and 1.")
    bound = _checks.number("advantage_clip", advantage_clip)
    if bound <= 0.0:
        raise ValueError(f"advantage_clip is {advantage_clip}; pass a value above 0.")
    dtype = torch.float64 if log_prob.dtype == torch.float64 else torch.float32
    ratio = (log_prob.to(dtype) - old_log_prob.to(dtype)).exp()
    cost = -advantage.to(dtype).clamp(-bound, bound)
    return torch.maximum(cost * ratio, cost * ratio.clamp(1.0 - reach, 1.0 + reach)).mean()
