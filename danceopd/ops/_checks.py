"""Argument checks shared by the native ops and their plain-torch twins: one sentence per mistake."""

from __future__ import annotations

import numbers
from collections.abc import Sequence

import torch

from danceopd.ops import _private

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
HUGE = 1.7976931348623157e308  # the largest finite double; a comparison with it also refuses NaN
MAX_FIELDS = 32
SMALLEST_STD = 1e-18  # 1 / (2 std^2) fits a float32

Number = float | torch.Tensor
Each = tuple[float, torch.Tensor | None]


def readable(name: str, tensor: torch.Tensor) -> None:
    """Values in memory, in rows: torch reads beyond a storage that was freed, as FSDP does, or shrunk."""
    if tensor.layout != torch.strided:
        raise TypeError(f"{name} has layout {tensor.layout}; pass {name}.to_dense().")
    plain = type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.device.type in ("cpu", "cuda")
    if plain and not torch.compiler.is_compiling() and not _private.transformed():
        try:
            held = tensor.untyped_storage().nbytes()
        except (NotImplementedError, RuntimeError):  # a wrapper without storage, which torch deals with
            return
        if tensor.numel() == 0:
            return
        last = tensor.storage_offset() + sum(
            (size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
        )
        if held == 0:
            raise ValueError(f"{name} holds no values, its storage was freed; pass a tensor that does.")
        if held < (last + 1) * tensor.element_size():
            raise ValueError(f"{name} reaches beyond its storage, which was shrunk; pass a whole tensor.")


def first(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor that decides shape, dtype and device of the result."""
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{name} is {type(tensor).__name__}; pass a torch.Tensor.")
    if tensor.dtype not in DTYPES:
        raise TypeError(f"{name} has dtype {tensor.dtype}; pass float32, bfloat16, float16 or float64.")
    if tensor.ndim == 0 or tensor.numel() == 0:
        raise ValueError(f"{name} has shape {list(tensor.shape)}; pass a non-empty tensor [B, ...].")
    readable(name, tensor)
    return tensor


def like(name: str, tensor: torch.Tensor, ref_name: str, ref: torch.Tensor, same_dtype: bool = False) -> None:
    """A tensor that goes with the first one: same shape and device, and a dtype that mixes with it."""
    first(name, tensor)
    if tensor.shape != ref.shape:
        raise ValueError(
            f"{name} has shape {list(tensor.shape)} but {ref_name} has {list(ref.shape)}; pass equal shapes."
        )
    if tensor.device != ref.device:
        raise ValueError(f"{name} is on {tensor.device} but {ref_name} on {ref.device}; move one of them.")
    if same_dtype and tensor.dtype != ref.dtype:
        raise TypeError(f"{name} has dtype {tensor.dtype} but {ref_name} has {ref.dtype}; pass one dtype.")
    if (tensor.dtype == torch.float64) != (ref.dtype == torch.float64):
        raise TypeError(
            f"{name} has dtype {tensor.dtype} but {ref_name} has {ref.dtype}; float64 mixes with none."
        )


def beside(ref_name: str, ref: torch.Tensor, **others: torch.Tensor) -> None:
    """The first tensor of an op and those that go with it."""
    first(ref_name, ref)
    for name, tensor in others.items():
        like(name, tensor, ref_name, ref)


def perhaps(ref_name: str, ref: torch.Tensor, **others: torch.Tensor | None) -> None:
    """Tensors that go with the first one where they are given."""
    for name, tensor in others.items():
        if tensor is not None:
            like(name, tensor, ref_name, ref)


def constant(name: str, tensor: torch.Tensor | None) -> None:
    """A tensor that no gradient flows to."""
    if tensor is not None and torch.is_grad_enabled() and tensor.requires_grad:
        raise ValueError(f"{name} requires grad, but no gradient flows to it; pass {name}.detach().")


def _unit(high: float) -> str:
    return " in [0, 1]" if high == 1.0 else ""


def _is_number(value: object) -> bool:
    """A real number that is no bool, also as an array without dimensions or as a compiler's symbol."""
    if isinstance(value, bool):
        return False
    if isinstance(value, (numbers.Real, torch.SymFloat, torch.SymInt)):
        return True
    kind = getattr(getattr(value, "dtype", None), "kind", "")  # of NumPy's arrays: float, int, unsigned
    return kind in ("f", "i", "u") and getattr(value, "shape", None) == ()


def _in_range(name: str, value: object, low: float, high: float) -> float:
    if not _is_number(value):
        raise TypeError(f"{name} is {type(value).__name__}; pass a float or a tensor [B].")
    try:
        number = float(value)  # type: ignore[arg-type]  # it is one
    except OverflowError:
        raise ValueError(f"{name} is too large for a float; pass a finite value{_unit(high)}.") from None
    if not low <= number <= high:
        raise ValueError(f"{name} is {number}; pass a finite value{_unit(high)}.")
    return number


def number_or_each(name: str, value: Number | None, ref: torch.Tensor, low: float, high: float) -> Each:
    """A float, or one value per sample: (the float, None) or (0, tensor [B] on the samples' device).

    Values on an accelerator are not looked at, for that would wait for the device.
    """
    if not isinstance(value, torch.Tensor):
        return _in_range(name, value, low, high), None
    if value.dtype not in DTYPES:
        raise TypeError(f"{name} has dtype {value.dtype}; pass a floating-point tensor.")
    if value.ndim > 1 or (value.ndim == 1 and value.shape[0] != ref.shape[0]):
        raise ValueError(
            f"{name} has shape {list(value.shape)} but there are {ref.shape[0]} samples; pass a float or [B]."
        )
    constant(name, value)
    readable(name, value)
    if value.device.type == "cpu" and not torch.compiler.is_compiling():
        least, most = value.aminmax()  # NaN where there is one
        if not (least.item() >= low and most.item() <= high):
            bad = ~((value >= low) & (value <= high))
            raise ValueError(
                f"{name} contains {value[bad].flatten()[0].item()}; pass finite values{_unit(high)}."
            )
    return 0.0, value.detach().expand(ref.shape[0]).to(ref.device).contiguous()


def sigma(name: str, value: Number | None, ref: torch.Tensor) -> Each:
    """A noise level in [0, 1]."""
    return number_or_each(name, value, ref, 0.0, 1.0)


def finite(name: str, value: Number, ref: torch.Tensor) -> Each:
    """A finite coefficient."""
    return number_or_each(name, value, ref, -HUGE, HUGE)


def guided(uncond: torch.Tensor | None, guidance_scale: Number) -> None:
    """Guidance needs an unconditional velocity; the scale is looked at where the host knows its value."""
    if uncond is not None:
        return
    if not isinstance(guidance_scale, torch.Tensor):
        seen = _in_range("guidance_scale", guidance_scale, -HUGE, HUGE)
        told = "is"
    elif guidance_scale.device.type != "cpu" or torch.compiler.is_compiling():
        return
    else:
        readable("guidance_scale", guidance_scale)
        others = guidance_scale[guidance_scale != 1.0]
        seen = others[0].item() if others.numel() else 1.0
        told = "contains"
    if seen != 1.0:
        raise ValueError(
            f"guidance_scale {told} {seen} but uncond is None; pass the velocity without the condition as "
            "uncond, or leave the scale at 1."
        )


def precision(std: Number, ref: torch.Tensor) -> Each:
    """The factor 1 / (2 std^2) of a Gaussian's exponent."""
    number, each = finite("std", std, ref)
    if each is None:
        if number < SMALLEST_STD:
            raise ValueError(f"std is {number}; pass a value of at least {SMALLEST_STD}.")
        return 0.5 / (number * number), None
    wide = each.to(torch.float32 if each.device.type == "mps" else torch.float64)
    if each.device.type == "cpu" and not torch.compiler.is_compiling() and bool((wide < SMALLEST_STD).any()):
        seen = each[wide < SMALLEST_STD][0].item()
        raise ValueError(f"std contains {seen}; pass values of at least {SMALLEST_STD}.")
    return 0.0, 0.5 / (wide * wide)


def descending(sigma: Number, sigma_next: Number) -> None:
    """A step goes towards the clean end, or nowhere; looked at where the host knows the values."""
    if not isinstance(sigma, torch.Tensor) and not isinstance(sigma_next, torch.Tensor):
        if sigma_next > sigma:
            raise ValueError(f"sigma_next is {sigma_next} but sigma is {sigma}; pass sigma_next <= sigma.")
        return
    on_host = all(not isinstance(v, torch.Tensor) or v.device.type == "cpu" for v in (sigma, sigma_next))
    if on_host and not torch.compiler.is_compiling():
        now, then = (torch.as_tensor(v, dtype=torch.float64).reshape(-1) for v in (sigma, sigma_next))
        if bool((then > now).any()):
            b = int((then > now).nonzero()[0, 0])
            raise ValueError(f"sigma_next exceeds sigma for sample {b}; pass sigma_next <= sigma.")


def moved(sigma_previous: Number | None, sigma: Number, sigma_next: Number) -> None:
    """A step of second order needs a step before it, unless it goes nowhere itself."""
    assert sigma_previous is not None  # `sigma` refuses that
    picks = (sigma_previous, sigma, sigma_next)
    if not any(isinstance(v, torch.Tensor) for v in picks):
        if sigma_previous < sigma or (sigma_previous == sigma != sigma_next):
            raise ValueError(
                f"sigma_previous is {sigma_previous} but sigma is {sigma}; pass sigma_previous > sigma."
            )
        return
    on_host = all(not isinstance(v, torch.Tensor) or v.device.type == "cpu" for v in picks)
    if not on_host or torch.compiler.is_compiling():
        return
    before, now, then = (torch.as_tensor(v, dtype=torch.float64, device="cpu").reshape(-1) for v in picks)
    bad = torch.where(now == then, before < now, before <= now)
    if bool(bad.any()):
        b = int(bad.nonzero()[0, 0])
        raise ValueError(f"sigma_previous is too low for sample {b}; pass sigma_previous > sigma.")


def number(name: str, value: object) -> float:
    """A finite float that is the same for all samples."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} is {type(value).__name__}; pass a float.")
    return _in_range(name, value, -HUGE, HUGE)


def noise_level(value: float) -> float:
    """How much noise a stochastic step adds."""
    level = number("noise_level", value)
    if level <= 0.0:
        raise ValueError(f"noise_level is {value}; pass a value above 0, or take euler_step.")
    return level


def seed(value: object, ref: torch.Tensor) -> tuple[int, torch.Tensor | None]:
    """One seed for the batch, or one per sample: (the int, None) or (0, int64 tensor [B])."""
    if isinstance(value, torch.Tensor):
        if value.dtype != torch.int64:
            raise TypeError(f"seed has dtype {value.dtype}; pass an int or an int64 tensor [B].")
        if tuple(value.shape) != (ref.shape[0],):
            raise ValueError(
                f"seed has shape {list(value.shape)} but there are {ref.shape[0]} samples; pass int64 [B]."
            )
        readable("seed", value)
        return 0, value.to(ref.device).contiguous()
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"seed is {type(value).__name__}; pass an int or an int64 tensor [B].")
    number = int(value)
    if not 0 <= number < 2**63:
        raise ValueError(f"seed is {number}; pass an integer in [0, 2^63).")
    return number, None


def noise_source(
    sample: torch.Tensor,
    noise: torch.Tensor | None,
    seed_value: object,
    next_sample: torch.Tensor | None,
) -> tuple[int, torch.Tensor | None]:
    """Exactly one of noise, seed and next_sample; returns the seed, (0, None) where it is not the one."""
    given = [
        name
        for name, value in (("noise", noise), ("seed", seed_value), ("next_sample", next_sample))
        if value is not None
    ]
    if not given:
        raise ValueError("noise, seed and next_sample are all None; pass one of them.")
    if len(given) > 1:
        raise ValueError(f"{given[0]} and {given[1]} are both given; pass one of noise, seed, next_sample.")
    perhaps("sample", sample, noise=noise, next_sample=next_sample)
    constant("noise", noise)
    constant("next_sample", next_sample)
    return (0, None) if seed_value is None else seed(seed_value, sample)


def fields(values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """K tensors of one shape, dtype and device."""
    if not isinstance(values, (list, tuple)):
        raise TypeError(f"fields is {type(values).__name__}; pass a list of K tensors [B, ...].")
    if not 1 <= len(values) <= MAX_FIELDS:
        raise ValueError(f"fields has {len(values)} tensors; pass 1 to {MAX_FIELDS}.")
    first("fields[0]", values[0])
    for k, field in enumerate(values[1:], start=1):
        like(f"fields[{k}]", field, "fields[0]", values[0], same_dtype=True)
    return list(values)


def weights(
    values: torch.Tensor | Sequence[float], fields: Sequence[torch.Tensor]
) -> torch.Tensor | list[float]:
    """K weights: floats, a tensor [K], or a tensor [B, K]."""
    count, ref = len(fields), fields[0]
    if not isinstance(values, torch.Tensor):
        if not isinstance(values, (list, tuple)):
            raise TypeError(f"weights is {type(values).__name__}; pass a list of floats or a tensor.")
        if len(values) != count:
            raise ValueError(f"weights has {len(values)} entries but fields has {count}; pass one per field.")
        for k, weight in enumerate(values):
            if isinstance(weight, bool) or not isinstance(weight, numbers.Real):
                seen = repr(weight) if weight is None or isinstance(weight, str) else type(weight).__name__
                raise TypeError(f"weights[{k}] is {seen}; pass a float, or all weights as one tensor.")
        return [number_or_each(f"weights[{k}]", float(w), ref, -HUGE, HUGE)[0] for k, w in enumerate(values)]
    if values.dtype not in DTYPES:
        raise TypeError(f"weights has dtype {values.dtype}; pass a floating-point tensor.")
    if tuple(values.shape) not in ((count,), (ref.shape[0], count)):
        raise ValueError(
            f"weights has shape {list(values.shape)}; pass [{count}] or [{ref.shape[0]}, {count}]."
        )
    readable("weights", values)
    if (
        values.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not bool(values.isfinite().all())
    ):
        raise ValueError("weights contains a value that is not finite; pass finite weights.")
    return values.to(ref.device)


def index(values: torch.Tensor, fields: Sequence[torch.Tensor]) -> torch.Tensor:
    """Which field each sample takes: int64 [B] on the fields' device, in [0, K) as far as the host sees."""
    batch = fields[0].shape[0]
    if not isinstance(values, torch.Tensor):
        raise TypeError(f"index is {type(values).__name__}; pass an integer tensor [B].")
    if values.dtype.is_floating_point or values.dtype.is_complex or values.dtype == torch.bool:
        raise TypeError(f"index has dtype {values.dtype}; pass an integer tensor [B].")
    if tuple(values.shape) != (batch,):
        raise ValueError(f"index has shape {list(values.shape)} but the batch has {batch} samples; pass [B].")
    readable("index", values)
    if values.device.type == "cpu" and not torch.compiler.is_compiling():
        bad = (values < 0) | (values >= len(fields))
        if bool(bad.any()):
            b = int(bad.nonzero()[0, 0])
            raise IndexError(f"index[{b}] is {int(values[b])} but there are only {len(fields)} fields.")
    return values.to(fields[0].device, torch.int64).contiguous()


def mask(value: torch.Tensor | None, student: torch.Tensor) -> torch.Tensor | None:
    """A bool or floating-point mask that broadcasts to the student, with as many dimensions."""
    if value is None:
        return None
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"mask is {type(value).__name__}; pass a bool or floating-point torch.Tensor.")
    if value.dtype not in (*DTYPES, torch.bool):
        raise TypeError(f"mask has dtype {value.dtype}; pass bool or a floating-point dtype.")
    lead = student.ndim - value.ndim
    if lead < 0 or any(m not in (1, s) for m, s in zip(value.shape, student.shape[lead:], strict=True)):
        raise ValueError(
            f"mask has shape {list(value.shape)} but student {list(student.shape)}; it has to broadcast."
        )
    if value.device != student.device:
        raise ValueError(f"mask is on {value.device} but student on {student.device}; move one of them.")
    constant("mask", value)
    readable("mask", value)
    if value.dtype != torch.bool and (value.dtype == torch.float64) != (student.dtype == torch.float64):
        value = value.to(torch.float64 if student.dtype == torch.float64 else torch.float32)
    return value.detach().reshape((1,) * lead + tuple(value.shape))


def policy(
    log_prob: torch.Tensor,
    old_log_prob: torch.Tensor,
    advantage: torch.Tensor,
    clip_range: object,
    advantage_clip: object,
) -> tuple[float, float]:
    """The arguments of the clipped objective; returns its two bounds."""
    first("log_prob", log_prob)
    for name, tensor in (("old_log_prob", old_log_prob), ("advantage", advantage)):
        like(name, tensor, "log_prob", log_prob)
        constant(name, tensor)
    reach = number("clip_range", clip_range)
    if not 0.0 < reach < 1.0:
        raise ValueError(f"clip_range is {clip_range}; pass a value between 0 and 1.")
    bound = number("advantage_clip", advantage_clip)
    if bound <= 0.0:
        raise ValueError(f"advantage_clip is {advantage_clip}; pass a value above 0.")
    return reach, bound
