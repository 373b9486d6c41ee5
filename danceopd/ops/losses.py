"""The matching loss of a DanceOPD update (arXiv 2606.27377): plain MSE between velocities."""

from __future__ import annotations

import torch
from torch.compiler import is_dynamo_compiling

from danceopd.ops import _backend, _checks, _library, _native, reference  # noqa: F401  (registers the ops)
from danceopd.ops._attach import attach_kl, attach_mse

Number = float | torch.Tensor


def velocity_mse(
    student: torch.Tensor,
    teacher: torch.Tensor,
    *,
    uncond: torch.Tensor | None = None,
    guidance_scale: Number = 1.0,
    weight: Number | None = None,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """The mean over all elements of `weight * mask * (student - target)^2`.

    The target is the teacher, or `guide(uncond, teacher, guidance_scale)` when `uncond` is given. The mean
    divides by the number of all elements, masked ones included. NaN anywhere, masked or not, makes the loss
    NaN.

    Args:
        student: velocities [B, ...].
        teacher: same shape and device, any dtype but float64 (float64 goes with float64). It is a constant: a
            teacher that requires grad is refused, as it means that somebody forgot `torch.no_grad()`.
        uncond: the teacher's velocity without the condition, a constant too.
        guidance_scale: a float or [B]; other than 1 with `uncond` alone (values on a GPU are not looked at).
        weight: a float, or [B] for one per sample; 1 when not given.
        mask: bool or floating point, broadcastable to the student; 1 when not given.

    Returns:
        A scalar in float32 (float64 for float64), differentiable (once) with respect to the student. The same
        bits whatever the number of threads; exactly 0 where student and target are equal.

    Raises:
        TypeError, ValueError: for arguments that do not fit; the message names the one.
    """
    if uncond is None and (type(guidance_scale) is not float or guidance_scale != 1.0):
        _checks.guided(uncond, guidance_scale)
    if _backend.native and mask is None and not is_dynamo_compiling():
        learns = torch.is_grad_enabled() and isinstance(student, torch.Tensor) and student.requires_grad
        # On the CPU the gradient is made here, while student and teacher are read anyway; on a GPU the
        # incoming gradient, unknown without waiting, would cost a second pass over it.
        made = True if learns and student.is_cpu else None
        fast: tuple[torch.Tensor, torch.Tensor | None] | None = _native.velocity_mse(
            False, student, teacher, uncond, guidance_scale, weight, None, 0, 1, 1, 1.0, made, True, None
        )
        if fast is not None:
            if not learns:
                return fast[0]
            return attach_mse(student, *fast, teacher, uncond, guidance_scale, weight)
    if not _backend.takes_native(student, teacher, uncond, mask):
        return reference.velocity_mse(
            student, teacher, uncond=uncond, guidance_scale=guidance_scale, weight=weight, mask=mask
        )
    arguments = _arguments(student, teacher, uncond, guidance_scale, weight, mask)
    result: torch.Tensor = torch.ops.danceopd.velocity_mse(*arguments, True)
    return result


def velocity_mse_with_grad(
    student: torch.Tensor,
    teacher: torch.Tensor,
    *,
    uncond: torch.Tensor | None = None,
    guidance_scale: Number = 1.0,
    weight: Number | None = None,
    mask: torch.Tensor | None = None,
    grad_scale: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`velocity_mse` per sample and its gradient with respect to the student, in one pass over memory.

    For a training loop: `student.backward(gradient)` continues into the model, and the loss per sample is
    what a log by route needs.

    Args:
        student: velocities [B, ...]; may require grad, the results never do.
        teacher: as in `velocity_mse`.
        uncond: as in `velocity_mse`.
        guidance_scale: as in `velocity_mse`.
        weight: as in `velocity_mse`.
        mask: as in `velocity_mse`.
        grad_scale: multiplies the gradient, not the loss, before it is rounded to the student's dtype: 1 /
            steps under gradient accumulation, the loss scale under fp16.

    Returns:
        The loss of each sample, [B] in float32 (float64 for float64), whose mean is `velocity_mse`; and
        `grad_scale * d velocity_mse / d student` in the student's shape and dtype.

    Raises:
        TypeError, ValueError: for arguments that do not fit; the message names the one.
    """
    if uncond is None and (type(guidance_scale) is not float or guidance_scale != 1.0):
        _checks.guided(uncond, guidance_scale)
    if _backend.native and mask is None and not is_dynamo_compiling():
        fast: tuple[torch.Tensor, torch.Tensor] | None = _native.velocity_mse(
            False,
            student,
            teacher,
            uncond,
            guidance_scale,
            weight,
            None,
            0,
            1,
            1,
            grad_scale,
            True,
            None,
            None,
        )
        if fast is not None:
            return fast
    if isinstance(student, torch.Tensor) and student.requires_grad:
        student = student.detach()
    if not _backend.takes_native(student, teacher, uncond, mask):
        return reference.velocity_mse_with_grad(
            student,
            teacher,
            uncond=uncond,
            guidance_scale=guidance_scale,
            weight=weight,
            mask=mask,
            grad_scale=grad_scale,
        )
    arguments = _arguments(student, teacher, uncond, guidance_scale, weight, mask)
    factor = _checks.number("grad_scale", grad_scale)
    loss, gradient = torch.ops.danceopd.velocity_mse_with_grad(*arguments, factor)
    return loss, gradient


def transition_kl(mean: torch.Tensor, teacher_mean: torch.Tensor, std: Number) -> torch.Tensor:
    """How far two transitions of equal spread are apart: the KL divergence of Flow-OPD (arXiv 2605.08043).

    `mean over elements of (mean - teacher_mean)^2 / (2 std^2)` for each sample: with its sign turned, the
    advantage of `policy_loss`; as it is, an anchor that keeps a student near its start.

    Args:
        mean: of the student's transition, [B, ...]; see `sde_step`.
        teacher_mean: of the teacher's from the same state; a constant.
        std: `SDEStep.std`, at least 1e-18 (1 / std^2 has to fit a float32); a float or [B].

    Returns:
        [B] in float32 (float64 for float64), differentiable (once) with respect to `mean`.

    Raises:
        TypeError, ValueError: for arguments that do not fit; the message names the one.
    """
    if _backend.native and not is_dynamo_compiling():
        fast: tuple[torch.Tensor, None] | None = _native.velocity_mse(
            False, mean, teacher_mean, None, 1.0, std, None, 0, 1, 1, 1.0, None, None, True
        )
        if fast is not None:
            learns = torch.is_grad_enabled() and mean.requires_grad
            return attach_kl(mean, fast[0], teacher_mean, std) if learns else fast[0]
    if not _backend.takes_native(mean, teacher_mean):
        return reference.transition_kl(mean, teacher_mean, std)
    _checks.beside("mean", mean, teacher_mean=teacher_mean)
    _checks.constant("teacher_mean", teacher_mean)
    result: torch.Tensor = torch.ops.danceopd.velocity_mse(
        mean, teacher_mean, None, 1.0, None, *_checks.precision(std, mean), None, False
    )
    return result


def _arguments(
    student: torch.Tensor,
    teacher: torch.Tensor,
    uncond: torch.Tensor | None,
    guidance_scale: Number,
    weight: Number | None,
    mask: torch.Tensor | None,
) -> tuple[object, ...]:
    _checks.beside("student", student, teacher=teacher)
    _checks.perhaps("student", student, uncond=uncond)
    _checks.constant("teacher", teacher)
    _checks.constant("uncond", uncond)
    scale = _checks.finite("guidance_scale", guidance_scale, student)
    weights = (1.0, None) if weight is None else _checks.finite("weight", weight, student)
    return student, teacher, uncond, *scale, *weights, _checks.mask(mask, student)
